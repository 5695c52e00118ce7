"""Runs the Pydra workflow of one image in lanes, and gives each node's result or failure."""

import errno
import functools
import importlib
import threading
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import attrs
import cloudpickle

from brainchop_pipe.engines.lanes import Lanes
from brainchop_pipe.engines.pydra_tasks import Segment, finds_brain_apart, label_nodes
from brainchop_pipe.errors import OutputError, PipeError, WorkerLostError
from brainchop_pipe.settings import AFTER_CRASH
from brainchop_pipe.step_files import BrainFiles, LabelFiles, TissueFiles
from brainchop_pipe.zoo.plan import plan_names

# After the tasks: they set NO_ET before Pydra is imported.
from pydra.engine.audit import Audit  # isort: skip
from pydra.engine.job import Job  # isort: skip
from pydra.engine.submitter import Submitter  # isort: skip
from pydra.utils.messenger import AuditFlag  # isort: skip
from pydra.workers.base import Worker  # isort: skip

# Nodes that hold ONNX sessions.
_INFERENCE = ("extract_brain", "tissues", "labels", "labels_of_brain")


@dataclass(frozen=True)
class SegmentOutcome:
    """What became of the workflow of one image.

    Parameters
    ----------
    tissues : TissueFiles, Exception or None
        None where no mask and tissue model run together.
    labels : tuple of LabelFiles or Exception
        In the order of the other models.
    brain : BrainFiles, Exception or None
        None where no model needs it from another.
    conformed : Path or None
        None where there is none.
    conform_seconds : float
    """

    tissues: TissueFiles | Exception | None
    labels: tuple[LabelFiles | Exception, ...]
    brain: BrainFiles | Exception | None
    conformed: Path | None
    conform_seconds: float


@attrs.define(eq=False, slots=False)
class LaneWorker(Worker):
    """A Pydra worker that sends jobs to lanes, and keeps what became of each.

    A failure is kept as it was raised; Pydra itself would hand on its text, and no
    result at all of the nodes that went well.
    """

    _plugin_name = "brainchop-lanes"

    lanes: Lanes = attrs.field(kw_only=True)
    finished: dict[tuple[str, int], Any] = attrs.field(factory=dict, init=False)
    seconds: dict[tuple[str, int], float] = attrs.field(factory=dict, init=False)

    def __getstate__(self) -> dict[str, Any]:
        # A job takes its submitter along into the lane, which has no use for lanes.
        return {}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.loop = None

    async def run(self, job: Any, rerun: bool = False) -> Any:
        """Run a job in the next lane that is free."""
        key = (job.name, job.state_index or 0)
        try:
            result, self.seconds[key] = await self.lanes.run(
                _run_job,
                cloudpickle.dumps(job),
                rerun,
                wants_gpu=job.name in _INFERENCE,
                after_crash=AFTER_CRASH if getattr(job.task, "device", None) == "auto" else None,
            )
        except Exception as error:
            self.finished[key] = error
            raise
        self.finished[key] = result.outputs
        # Pydra would look for the result on the disk until it is there, which it never is again where
        # the work folder is lost at this moment.
        job._cached_result = result
        return result


class _StillAudit(Audit):
    """Pydra's own takes the process into the workflow's folder, which the next image shares and loses."""

    def start_audit(self, odir: Path) -> None:
        """Note the folder, and stay."""
        self.odir = odir


async def run_segment(lanes: Lanes, folder: Path, **inputs: Any) -> SegmentOutcome:
    """Run the workflow `Segment`.

    Parameters
    ----------
    lanes : Lanes
    folder : Path
        For intermediate files and results; made here, removed by the caller.
    **inputs
        Of `Segment`; models by name.

    Returns
    -------
    SegmentOutcome
        Failures of nodes are in it; a node that was not reached has the failure of
        the one before.
    """
    worker = LaneWorker(lanes=lanes)
    failure: Exception | None = None
    try:
        folder.mkdir(parents=True, exist_ok=True)
        submitter = Submitter(cache_root=folder, worker=worker)
        submitter.audit = _StillAudit(AuditFlag.NONE, messengers=None, messenger_args=None)
        await Job(Segment(**inputs), submitter=submitter, name="segment").run_async()
    except Exception as error:  # noqa: BLE001 - Pydra's text of all failures; the nodes' own tell more
        failure = _explained(error)
    for node in ("extract_brain", "conform"):
        if isinstance(worker.finished.get((node, 0)), Exception):
            failure = worker.finished[(node, 0)]
    plan = plan_names(*(inputs[name] for name in ("models", "tissue_model", "prepare", "mask_model")))
    has_brain = finds_brain_apart(plan, inputs.get("given_mask"))
    missing = failure or WorkerLostError("it was not reached; run again")
    get = worker.finished.get
    conformed = get(("conform", 0), missing)
    return SegmentOutcome(
        _files(TissueFiles, get(("tissues", 0), missing)) if plan.pair else None,
        tuple(_files(LabelFiles, get(node, missing)) for node in label_nodes(plan)),
        _files(BrainFiles, get(("extract_brain", 0), missing)) if has_brain else None,
        None if isinstance(conformed, Exception) else Path(conformed.out_file),
        worker.seconds.get(("conform", 0), 0.0),
    )


def _files(kind: Any, result: Any) -> Any:
    """Give a node's output files by name; a failure stays one."""
    if isinstance(result, Exception):
        return result
    found = {name: getattr(result, name) for name in kind._fields}
    return kind(**{name: None if file is None else Path(file) for name, file in found.items()})


def _run_job(payload: bytes, rerun: bool) -> tuple[Any, float]:
    """Run a Pydra job, and say how long it took; this happens in a lane."""
    _import_ahead()
    start = time.perf_counter()
    try:
        return cloudpickle.loads(payload).run(rerun=rerun), time.perf_counter() - start
    except Exception as error:
        raise _explained(error) from error


@functools.cache
def _import_ahead() -> None:
    """Import what later steps import when they are called, while the first image is read."""

    def read() -> None:
        # Who needs it says what is missing.
        with suppress(ImportError):
            importlib.import_module("scipy.ndimage")

    threading.Thread(target=read, daemon=True).start()


def _explained(error: Exception) -> Exception:
    """Say in words what Pydra's own files below the work folder ran into."""
    if isinstance(error, PipeError) or not isinstance(error, OSError):
        return error
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return OutputError(
            "there is no space left in the work folder; free some or name another (--work-dir)"
        )
    return OutputError(
        f"a file was lost or cannot be used while it was worked on ({error.strerror or error}: "
        f"{Path(str(error.filename or '?')).name}); check the work folder and run again"
    )
