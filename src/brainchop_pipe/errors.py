"""Every error that this package raises on purpose.

::

    PipeError
    ├── UsageError        (ValueError)         the command or a parameter is wrong
    ├── InputError        (ValueError)         an image cannot be segmented as it is
    │   └── GeometryError                      its position in the world is not known
    ├── ShapeError        (ValueError)         an array has the wrong number of axes
    ├── BidsError         (ValueError)         a folder is no BIDS dataset
    │   └── NoMatchError                       the filters leave no image
    ├── MissingInputError (FileNotFoundError)  a file or folder is not there
    ├── OutputError       (OSError)            a folder cannot be written
    ├── ModelError        (ValueError)         a card or its weights are not usable
    │   └── ChecksumError                      a file is not the one that was recorded
    ├── ProviderError     (RuntimeError)       an execution provider cannot run
    ├── ClusterError      (RuntimeError)       a cluster does not take or know jobs
    └── WorkerLostError   (RuntimeError)       a process ended in mid-work

``exit_code`` is what the command returns when the error ends the run; the
numbers are those of the BIDS execution draft and of BSD's ``sysexits``.
"""

from typing import ClassVar

# Of a run that ended by itself, and of one that was told to end.
EXIT_SOME_FAILED = 75
EXIT_INTERRUPTED = 130


class PipeError(Exception):
    """Base of all errors of this package."""

    exit_code: ClassVar[int] = 70


class UsageError(PipeError, ValueError):
    """The command line or a parameter is wrong."""

    exit_code = 64


class InputError(PipeError, ValueError):
    """An image cannot be segmented as it is."""

    exit_code = 65


class GeometryError(InputError):
    """The position of an image in the world is not known."""


class ShapeError(PipeError, ValueError):
    """An array has the wrong number of axes, or axes of the wrong length."""

    exit_code = 65


class BidsError(PipeError, ValueError):
    """A folder is no valid BIDS dataset."""

    exit_code = 16


class NoMatchError(BidsError):
    """The filters leave no image of the dataset."""

    exit_code = 18


class MissingInputError(PipeError, FileNotFoundError):
    """A file or folder that was named is not there."""

    exit_code = 66


class OutputError(PipeError, OSError):
    """A folder cannot be created or written."""

    exit_code = 73


class ModelError(PipeError, ValueError):
    """A model card or its weights are not usable."""

    exit_code = 65


class ChecksumError(ModelError):
    """A file's content is not what was recorded for it."""


class ProviderError(PipeError, RuntimeError):
    """An execution provider that was asked for cannot run."""

    exit_code = 69


class ClusterError(PipeError, RuntimeError):
    """A cluster does not take jobs, or cannot be asked about them."""

    exit_code = 69


class WorkerLostError(PipeError, RuntimeError):
    """A process that worked on an image ended before it was done.

    Parameters
    ----------
    message : str
    crashed : bool
        It broke by itself, inside a library for example, and was not killed.
    """

    def __init__(self, message: str, *, crashed: bool = False) -> None:
        super().__init__(message)
        self.crashed = crashed
