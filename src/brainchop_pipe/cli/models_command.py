"""``brainchop models list | show NAME | check NAME | pull NAME... | verify``."""

import argparse

from rich.console import Console
from rich.table import Table

from brainchop_pipe.errors import ChecksumError
from brainchop_pipe.settings import available_cpus
from brainchop_pipe.storage import sha256_of_file
from brainchop_pipe.zoo.catalog import Model, find_model, shipped_models
from brainchop_pipe.zoo.check import check_file, try_model
from brainchop_pipe.zoo.fetch import ModelStore
from brainchop_pipe.zoo.inspect import TensorFacts

# By how much a run may exceed the memory of the card before it is worth a word.
_MEMORY_SLACK = 1.1


def run_models(argv: list[str]) -> int:
    """Run one of the commands on models; returns the exit code."""
    given = _parser().parse_args(argv)
    console = Console(highlight=False)
    store = ModelStore.from_environment()
    if given.action == "list":
        _list(console, store)
    elif given.action == "show":
        console.print_json(find_model(given.name).card.model_dump_json())
    elif given.action == "check":
        _check(console, store, find_model(given.name), given.threads or available_cpus())
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
    actions = parser.add_subparsers(dest="action", required=True, metavar="{list,show,check,pull,verify}")
    actions.add_parser("list", help="names, contrasts, and which are on this machine")
    show = actions.add_parser("show", help="a model's card")
    show.add_argument("name", metavar="NAME", help="name, or path of a card")
    check = actions.add_parser("check", help="compare a card with its ONNX file, and run it on a made head")
    check.add_argument("name", metavar="NAME", help="name, or path of a card")
    check.add_argument("--threads", type=int, metavar="N", help="default: all processors")
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


def _check(console: Console, store: ModelStore, model: Model, threads: int) -> None:
    """Say of a model that it is what its card says, and what running it takes; a difference is an error."""
    content = store.load(model)
    facts = check_file(model, content)
    card = model.card
    lines = [
        f"{card.name}: the card and its ONNX file fit each other "
        f"(opset {facts.opset}, {facts.parameter_bytes / 1e6:.2f} MB of weights)",
        f"input {facts.inputs[0].name!r} {facts.inputs[0].dtype} {_shape(facts.inputs[0])}, "
        f"output {facts.outputs[0].name!r} {facts.outputs[0].dtype} {_shape(facts.outputs[0])}",
    ]
    trial = try_model(model, content, threads=threads)
    lines.append(
        f"a made head ({trial.field_of_view}) took {trial.seconds:.1f} s with {trial.provider} and {threads} "
        f"threads, and {trial.memory_gb:.1f} GB; the card says {card.memory.full_gb:g} GB (memory.full_gb)"
    )
    lines.append(f"labels found: {', '.join(map(str, trial.labels))}")
    if trial.memory_gb > _MEMORY_SLACK * card.memory.full_gb:
        lines.append(f"memory.full_gb is too small: write {trial.memory_gb:.1f}")
    for line in lines:
        console.print(line, markup=False, soft_wrap=True)


def _shape(tensor: TensorFacts) -> str:
    return f"({', '.join(map(str, tensor.shape))})"


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
