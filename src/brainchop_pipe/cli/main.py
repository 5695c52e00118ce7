"""The command: which part of it is meant, and which exit code comes of it."""

import gc
import logging
import signal
import sys
from collections.abc import Callable
from contextlib import suppress
from types import FrameType

from brainchop_pipe.errors import EXIT_INTERRUPTED, PipeError

logger = logging.getLogger(__name__)

EXIT_IO = 74


def console_main() -> int:
    """Run the command as a program of its own, in whose process nothing else has happened."""
    return main(owns_process=True)


def main(argv: list[str] | None = None, *, owns_process: bool = False) -> int:
    """Run the command.

    Parameters
    ----------
    argv : list of str or None
        Arguments without the program's name; None: those of the process.
    owns_process : bool
        Processes may be forks of this one.

    Returns
    -------
    int
        Exit code: 0 done; 16 no valid BIDS; 17 unknown level; 18 no image matches;
        64 usage; 65 model or data; 66 no input; 69 no such device; 73 output cannot
        be written; 74 other trouble with files; 75 some images failed; 130 interrupted.
    """
    arguments = sys.argv[1:] if argv is None else argv
    if arguments in (["--version"], ["-V"]):
        from brainchop_pipe import __version__

        sys.stdout.write(f"brainchop_pipe {__version__}\n")
        return 0
    previous = signal.signal(signal.SIGTERM, _interrupt)
    try:
        return _command(arguments, owns_process=owns_process)
    except PipeError as error:
        sys.stderr.write(f"brainchop: {error}\n")
        return error.exit_code
    except OSError as error:
        sys.stderr.write(f"brainchop: {error}; check that files and folders can be read and written\n")
        return EXIT_IO
    except KeyboardInterrupt:
        sys.stderr.write("brainchop: interrupted; the same command goes on where this one stopped\n")
        return EXIT_INTERRUPTED
    finally:
        signal.signal(signal.SIGTERM, previous)
        # Python looks through all objects of all libraries when it ends, for a third of a second.
        gc.freeze()


def _command(arguments: list[str], *, owns_process: bool) -> int:
    """Hand over to the part that the first word names; anything else is the BIDS-App.

    Imported only when needed: the libraries of each part cost up to a second. Processes
    that a program of its own needs are forked from it, so that they need not import again.
    """
    will_share = owns_process and _will_segment(arguments)
    # Nothing that an import makes is garbage: looking for it takes a tenth of the time.
    gc.disable()
    try:
        command, rest = _part_for(arguments)
        if will_share:
            from brainchop_pipe.workflows import early_start
    finally:
        # The collector looks at none of it again, nor do processes that share it have to copy it.
        gc.freeze()
        gc.enable()
    if will_share:
        # A folder that is gone, for example, is for the run itself to tell.
        with suppress(OSError):
            early_start.fork_server()
    return command(rest)


def _part_for(arguments: list[str]) -> tuple[Callable[[list[str]], int], list[str]]:
    """Import the part that the first word names, and give it with the arguments for it."""
    command: Callable[[list[str]], int]
    if arguments[:1] == ["models"]:
        from brainchop_pipe.cli.models_command import run_models as command
    elif arguments[:1] == ["segment"]:
        from brainchop_pipe.cli.run_command import run_segment as command
    elif arguments[:1] == ["jobs"]:
        from brainchop_pipe.cli.cluster_command import run_jobs as command
    elif arguments[:1] == ["provenance"]:
        from brainchop_pipe.cli.trust_commands import run_provenance as command
    elif arguments[:1] == ["rerun"]:
        from brainchop_pipe.cli.trust_commands import run_rerun as command
    elif arguments[:1] == ["verify"]:
        from brainchop_pipe.cli.trust_commands import run_verify as command
    else:
        from brainchop_pipe.cli.run_command import run_app

        return run_app, arguments
    return command, arguments[1:]


def _will_segment(arguments: list[str]) -> bool:
    """Tell whether processes will be needed, before anything is checked."""
    elsewhere = {"-h", "--help", "--cluster"} & {argument.partition("=")[0] for argument in arguments}
    return ("participant" in arguments or arguments[:1] == ["segment"]) and not elsewhere


def _interrupt(_signal: int, _frame: FrameType | None) -> None:
    """Let SIGTERM end a run as Ctrl-C does: locks freed, temporary files removed."""
    raise KeyboardInterrupt


if __name__ == "__main__":
    sys.exit(console_main())
