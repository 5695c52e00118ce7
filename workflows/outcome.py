"""What became of a model on an image, and how the output folder tells of it."""

import logging
from dataclasses import dataclass, replace
from typing import Literal

from brainchop_pipe.workflows.participant_report import page_path, write_participant_page

from brainchop_pipe.bids.failures import (
    FailedModel,
    FailureRecord,
    read_failure,
    remove_failure,
    without_places,
    write_failure,
)
from brainchop_pipe.bids.names import Source
from brainchop_pipe.record import utc_now
from brainchop_pipe.settings import Settings

logger = logging.getLogger(__name__)

Status = Literal["done", "complete", "skipped", "failed"]


@dataclass(frozen=True)
class Outcome:
    """What became of one model on one image.

    Parameters
    ----------
    source : Source
    model : str
    status : str
        "done"; "complete": it was there already; "skipped": not meant for this
        image; "failed".
    seconds : float
        Of this model's preparation and inference and, for the last model of a product,
        the way back to the image's grid.
    reason : str
        Why it was skipped or failed; notes on the image when done.
    traceback : tuple of str
        Where in the program it failed, if nobody foresaw that.
    """

    source: Source
    model: str
    status: Status
    seconds: float = 0.0
    reason: str = ""
    traceback: tuple[str, ...] = ()


def tell_outcomes(outcomes: list[Outcome], source: Source, settings: Settings) -> list[Outcome]:
    """Leave word of an image's outcomes in the output folder: what failed, and the participant's page.

    Parameters
    ----------
    outcomes : list of Outcome
        Of one image.
    source : Source
    settings : Settings

    Returns
    -------
    list of Outcome
        The same; with a note where the page could not be written, which does not make
        the maps wrong.
    """
    try:
        changed = _update_failures(outcomes, source, settings)
        statuses = {outcome.status for outcome in outcomes}
        is_there = page_path(settings.output_dir, source.participant).is_file()
        if changed or "done" in statuses or ("complete" in statuses and not is_there):
            write_participant_page(settings.output_dir, source.participant)
    except Exception as error:
        logger.warning("%s: the report was not written", source.name, exc_info=error)
        note = f"The report was not written ({type(error).__name__}: {error})."
        return [replace(outcome, reason=f"{outcome.reason} {note}".strip()) for outcome in outcomes]
    return outcomes


def _update_failures(outcomes: list[Outcome], source: Source, settings: Settings) -> bool:
    """Record which models failed; those of earlier runs stay until they are done. True if that changed."""
    before = read_failure(settings.output_dir, source)
    now = {o.model: o.status for o in outcomes if o.status != "skipped"}
    failed = [entry for entry in (before.failed if before else ()) if entry.model not in now]
    failed += [_failed_model(outcome, settings) for outcome in outcomes if outcome.status == "failed"]
    if not failed:
        remove_failure(settings.output_dir, source)
        return before is not None
    record = FailureRecord(
        image=source.uri,
        participant=source.participant,
        time=utc_now(),
        command=settings.command,
        failed=tuple(failed),
    )
    if before is None or record.failed != before.failed:
        write_failure(settings, source, record)
    return before is None or record.failed != before.failed


def _failed_model(outcome: Outcome, settings: Settings) -> FailedModel:
    return FailedModel(
        model=outcome.model,
        reason=without_places(outcome.reason, settings),
        traceback=tuple(without_places(line, settings) for line in outcome.traceback),
    )
