"""Train, evaluate and export a model: ``python -m brainchop_pipe.models.train --help``."""

import argparse
import json
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path

from brainchop_pipe.models.train.card import export
from brainchop_pipe.models.train.checkpoint import load_average
from brainchop_pipe.models.train.comparison import compared
from brainchop_pipe.models.train.corruption import as_conformed
from brainchop_pipe.models.train.curves import draw_curves
from brainchop_pipe.models.train.evaluation import evaluate
from brainchop_pipe.models.train.finishing import calibration, finished
from brainchop_pipe.models.train.fitting import Training
from brainchop_pipe.models.train.making import Example
from brainchop_pipe.models.train.network import Segmenter
from brainchop_pipe.models.train.settings import Settings, read_settings
from brainchop_pipe.models.train.sources import EVALUATING, Examples, Heads, read_heads, read_pair

from brainchop_pipe.errors import PipeError
from brainchop_pipe.storage import write_whole

_WRONG_USAGE = 64


def main() -> None:
    """Run the command."""
    parser = argparse.ArgumentParser(prog="brainchop_pipe.models.train", description=__doc__)
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    for name, run, words in (
        ("fit", _fit, "train, or go on from the checkpoint that is there"),
        ("evaluate", _evaluate, "Dice on images made of what was left out, and on labelled images"),
        ("calibrate", _calibrate, "what an offset of white matter's score does to Dice and volumes"),
        ("export", _export, "write the ONNX file and its card"),
        ("curves", _curves, "draw how training went"),
    ):
        command = commands.add_parser(name, help=words)
        command.add_argument("config", type=Path, help="TOML file")
        command.add_argument("folder", type=Path, help="has the checkpoint")
        command.set_defaults(run=run)
        if name == "fit":
            command.add_argument("--steps", type=int, help="in place of the configuration's")
        elif name in ("evaluate", "calibrate"):
            command.add_argument("--images", type=int, default=16, help="of each kind")
        if name == "evaluate":
            command.add_argument("--pair", nargs=2, type=Path, action="append", default=[])
        elif name in ("export", "curves"):
            command.add_argument("out", type=Path, help="folder of the model, or PNG file")
    compare = commands.add_parser("compare", help="trainings side by side: Dice, parameters, time, memory")
    compare.add_argument("folders", nargs="+", type=Path)
    compare.set_defaults(run=_compare)
    given = parser.parse_args()
    try:
        given.run(given)
    except PipeError as error:
        sys.stderr.write(f"{error}\n")
        sys.exit(_WRONG_USAGE)


def _fit(given: argparse.Namespace) -> None:
    settings = read_settings(given.config)
    if given.steps:
        fitting = settings.fitting.model_copy(update={"steps": given.steps})
        settings = settings.model_copy(update={"fitting": fitting})
    heads = read_heads(settings.data, given.config.parent)
    Training(settings, given.folder).run(*heads, _show)


def _evaluate(given: argparse.Namespace) -> None:
    settings = read_settings(given.config)
    network = _network(given.folder, settings)
    _, kept = read_heads(settings.data, given.config.parent)
    kinds = settings.making.kinds if kept.maps else {}
    for kind in kinds:
        _show({"kind": kind, **evaluate(network, _made(kept, settings, kind, given.images))})
    given_pairs = tuple(read_pair(*paths) for paths in given.pair)
    for number, pair in enumerate((*kept.pairs, *given_pairs), start=1):
        example = Example(as_conformed(pair.image), pair.tissues)
        _show({"pair": number, **evaluate(network, [example])})


def _made(kept: Heads, settings: Settings, kind: str, count: int) -> Iterable[Example]:
    making = settings.making.model_copy(update={"kinds": {kind: 1.0}})
    examples = Examples(Heads(kept.maps, ()), making, 0, (settings.fitting.seed, EVALUATING), count)
    return (examples[index] for index in range(count))


def _calibrate(given: argparse.Namespace) -> None:
    settings = read_settings(given.config)
    without = settings.finishing.model_copy(update={"white_offset": 0.0})
    network = _network(given.folder, settings.model_copy(update={"finishing": without}))
    _, kept = read_heads(settings.data, given.config.parent)
    for kind in settings.making.kinds:
        for row in calibration(network, _made(kept, settings, kind, given.images)):
            _show({"kind": kind, **row})


def _export(given: argparse.Namespace) -> None:
    settings = read_settings(given.config)
    _, trained, progress = load_average(given.folder)
    told = trained.model_copy(update={"card": settings.card})
    sys.stdout.write(f"{export(_network(given.folder, settings), told, progress, given.out)}\n")


def _curves(given: argparse.Namespace) -> None:
    write_whole(given.out, draw_curves(load_average(given.folder)[2].history))


def _compare(given: argparse.Namespace) -> None:
    for folder in given.folders:
        _show(compared(folder))


def _network(folder: Path, settings: Settings) -> Segmenter:
    """Give the network as it is exported: that of the checkpoint, finished as a configuration says."""
    weights, trained, _ = load_average(folder)
    return finished(weights, settings.model_copy(update={"network": trained.network}))


def _show(line: Mapping[str, object]) -> None:
    sys.stdout.write(json.dumps(line) + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    main()
