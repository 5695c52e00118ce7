"""``brainchop models list | show NAME | pull NAME... | verify``."""

import argparse

from rich.console import Console
from rich.table import Table

from brainchop_pipe.errors import ChecksumError
from brainchop_pipe.storage import sha256_of_file
from brainchop_pipe.zoo.catalog import Model, find_model, shipped_models
from brainchop_pipe.zoo.fetch import ModelStore


def run_models(argv: list[str]) -> int:
    """Run one of the commands on models; returns the exit code."""
    given = _parser().parse_args(argv)
    console = Console(highlight=False)
    store = ModelStore.from_environment()
    if given.action == "list":
        _list(console, store)
    elif given.action == "show":
        console.print_json(find_model(given.name).card.model_dump_json())
    elif given.action == "pull":
        for name in given.names or shipped_models():
            model = find_model(name)
            store.pull(model)
            console.print(f"{name}: ready in {store.path_of(model)}", markup=False, soft_wrap=True)
    else:
        _verify(console, store)
    return 0


def _parser() -> argparse.ArgumentParser:
    from brainchop_pipe.cli.arguments import Parser

    parser = Parser(prog="brainchop models", description="Look at, fetch and verify models.")
    actions = parser.add_subparsers(dest="action", required=True, metavar="{list,show,pull,verify}")
    actions.add_parser("list", help="names, contrasts, and which are on this machine")
    show = actions.add_parser("show", help="a model's card")
    show.add_argument("name", metavar="NAME", help="name, or path of a card")
    pull = actions.add_parser("pull", help="fetch models, whatever the cache holds")
    pull.add_argument("names", nargs="*", metavar="NAME", help="default: all")
    actions.add_parser("verify", help="compare the files on this machine with the cards' digests")
    return parser


def _list(console: Console, store: ModelStore) -> None:
    table = Table(box=None, pad_edge=False)
    for heading in ("name", "what", "contrasts", "labels", "licence", "memory", "here"):
        table.add_column(heading, overflow="fold")
    for name, model in shipped_models().items():
        card = model.card
        table.add_row(
            name,
            card.title,
            " ".join(card.modalities),
            str(len(card.output.labels) - 1),
            card.license.id,
            f"{card.memory.cropped_gb:g} GB",
            "yes" if store.path_of(model).is_file() else "no",
        )
    console.print(table)


def _verify(console: Console, store: ModelStore) -> None:
    """Compare every model that is here with its card; a difference is an error."""
    models = shipped_models()
    states = {name: _state(model, store) for name, model in models.items()}
    for name, state in states.items():
        console.print(f"{name}: {state}", markup=False, soft_wrap=True)
    damaged = [name for name, state in states.items() if state.startswith("damaged")]
    if damaged:
        raise ChecksumError(
            f"{', '.join(damaged)} differ from their cards; `brainchop models pull` them again"
        )


def _state(model: Model, store: ModelStore) -> str:
    path = store.path_of(model)
    if not path.is_file():
        return "not on this machine"
    digest = sha256_of_file(path)
    if digest != model.card.weights.onnx_sha256:
        return f"damaged: {path} has SHA-256 {digest}"
    return f"right ({path})"
