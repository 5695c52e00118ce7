"""Train, evaluate and export a model: ``python -m brainchop_pipe.models.train --help``."""

import argparse
import json
import sys
from pathlib import Path

from brainchop_pipe.models.train.fitting import Training
from brainchop_pipe.models.train.settings import read_settings
from brainchop_pipe.models.train.sources import read_heads


def main() -> None:
    """Run the command."""
    parser = argparse.ArgumentParser(prog="brainchop_pipe.models.train", description=__doc__)
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    fit = commands.add_parser("fit", help="train, or go on training from the checkpoint")
    fit.add_argument("config", type=Path, help="TOML file")
    fit.add_argument("folder", type=Path, help="gets the checkpoint and the history")
    fit.add_argument("--steps", type=int, help="in place of the configuration's")
    fit.set_defaults(run=_fit)
    given = parser.parse_args()
    given.run(given)


def _fit(given: argparse.Namespace) -> None:
    settings = read_settings(given.config)
    if given.steps:
        fitting = settings.fitting.model_copy(update={"steps": given.steps})
        settings = settings.model_copy(update={"fitting": fitting})
    heads = read_heads(settings.data, given.config.parent)
    Training(settings, given.folder).run(*heads, _show)


def _show(line: dict[str, float]) -> None:
    sys.stdout.write(json.dumps(line) + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    main()
