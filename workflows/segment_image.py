"""One image through all of a run's models, into its derivatives."""

import logging
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from brainchop_pipe.workflows.further_files import with_further_files
from brainchop_pipe.workflows.publish_product import StepFiles, publish_product
from brainchop_pipe.workflows.suitability import refusal

from brainchop_pipe.bids.derivatives import Product, label_table, plan_products
from brainchop_pipe.bids.names import Source
from brainchop_pipe.bids.provenance import FileState, signature
from brainchop_pipe.bids.publish import is_complete
from brainchop_pipe.engines.lanes import Lanes
from brainchop_pipe.errors import PipeError
from brainchop_pipe.images import read_place
from brainchop_pipe.settings import Settings
from brainchop_pipe.step_files import BrainFiles
from brainchop_pipe.zoo.catalog import Model
from brainchop_pipe.zoo.plan import NO_TISSUE_MODEL

if TYPE_CHECKING:
    from brainchop_pipe.engines.pydra_worker import SegmentOutcome

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
    """

    source: Source
    model: str
    status: Status
    seconds: float = 0.0
    reason: str = ""


@dataclass(frozen=True)
class Workplace:
    """Where images are worked on.

    Parameters
    ----------
    lanes : Lanes
    folder : Path
        For intermediate files.
    """

    lanes: Lanes
    folder: Path


async def segment_image(
    source: Source, path: Path, models: tuple[Model, ...], settings: Settings, workplace: Workplace
) -> list[Outcome]:
    """Run what is missing for one image, and write it.

    Parameters
    ----------
    source : Source
        How the image is called.
    path : Path
        Where it is.
    models : tuple of Model
        In the order of the run.
    settings : Settings
    workplace : Workplace

    Returns
    -------
    list of Outcome
        One a model. A failure is an outcome, not an exception: it must not stop
        the images after this one.
    """
    refused = {model.card.name: refusal(source, model, settings.query.modalities) for model in models}
    outcomes = [Outcome(source, name, "skipped", reason=reason) for name, reason in refused.items() if reason]
    usable = tuple(model for model in models if not refused[model.card.name])
    if not usable:
        return outcomes
    work = _ImageWork(source, path, usable, settings)
    return outcomes + await work.run(workplace)


class _ImageWork:
    """The products of one image: what is missing, and how it comes into its place."""

    def __init__(self, source: Source, path: Path, models: tuple[Model, ...], settings: Settings) -> None:
        self.source = source
        self.path = path
        self.settings = settings
        self.products = plan_products(models, settings.processing, keep_brain=settings.keep_prepared)

    async def run(self, workplace: Workplace) -> list[Outcome]:
        """Do what is missing; the one place where any exception becomes an outcome."""
        outcomes: list[Outcome] = []
        missing = list(self.products)
        try:
            read_place(self.path, self.settings.processing.prefer_affine)
            self.settings = with_further_files(self.settings, self.source, self.path, self.products)
            state = FileState.of(self.path)
            missing = [p for p in self.products if not self._is_complete(p, state)]
            complete = [p for p in self.products if p not in missing]
            outcomes = [o for p in complete for o in self._outcomes(p, "complete")]
            if missing:
                outcomes += await self._make(missing, state, workplace)
        except Exception as error:  # noqa: BLE001 - one bad image must not stop the others
            reason = self._explain(error)
            outcomes += [o for p in missing for o in self._outcomes(p, "failed", reason)]
        return outcomes

    def _is_complete(self, product: Product, state: FileState) -> bool:
        return not self.settings.force and is_complete(
            self.settings.output_dir,
            list(product.files(self.source).values()),
            list(label_table(self.source, product, self.settings.processing.label_scheme)),
            signature(product, self.settings),
            self.path,
            state,
            check_hashes=self.settings.check_hashes,
        )

    async def _make(self, missing: list[Product], state: FileState, workplace: Workplace) -> list[Outcome]:
        """Run the workflow for the missing products, and publish what comes out of it."""
        # Pydra takes half a second to import, which a run that has nothing to do need not spend.
        from brainchop_pipe.engines.pydra_worker import run_segment

        folder = workplace.folder / self.source.stem
        try:
            made = await run_segment(workplace.lanes, folder, **self._inputs(missing))
            results = ([made.tissues] if made.tissues else []) + list(made.labels)
            return [
                outcome
                for product, result in zip(missing, results, strict=True)
                for outcome in self._publish(product, result, state, made)
            ]
        finally:
            shutil.rmtree(folder, ignore_errors=True)

    def _inputs(self, missing: list[Product]) -> dict[str, Any]:
        """Give the inputs of the workflow."""
        processing = self.settings.processing
        pair = next((p for p in missing if p.is_tissue_set), None)
        return {
            # Not through links: a name at their end may say who this is.
            "in_file": self.path.absolute(),
            "models": [model.asked_as for product in missing for model in product.models],
            "tissue_model": pair.models[1].card.name if pair else NO_TISSUE_MODEL,
            "prefer_affine": processing.prefer_affine,
            "prepare": processing.prepare,
            # One of the run's, even where its own product is complete.
            "mask_model": next((p.mask_model.asked_as for p in missing if p.mask_model), None),
            "given_mask": processing.mask,
            "contrasts": tuple(suffix for suffix, _ in processing.contrasts),
            "contrast_files": tuple(file for _, file in processing.contrasts),
            "full_volume": processing.full_volume,
            "interpolation": processing.label_interpolation,
            "label_scheme": processing.label_scheme,
            "orientation": processing.output_orientation,
            "device": processing.device,
            "threads": processing.threads,
            "mem_gb": processing.mem_gb,
        }

    def _publish(
        self, product: Product, result: StepFiles | Exception, state: FileState, made: "SegmentOutcome"
    ) -> list[Outcome]:
        try:
            if isinstance(result, Exception):
                raise result
            brain = made.brain if product.keeps_brain and isinstance(made.brain, BrainFiles) else None
            settings, seconds = self.settings, made.conform_seconds
            record = publish_product(self.source, product, result, state, settings, seconds, brain)
        except Exception as error:  # noqa: BLE001 - one bad model must not stop the others
            return self._outcomes(product, "failed", self._explain(error))
        return self._outcomes(product, "done", " ".join((*record.notes, *record.flags)), record.seconds)

    def _outcomes(
        self, product: Product, status: Status, reason: str = "", seconds: dict[str, float] | None = None
    ) -> list[Outcome]:
        spent = seconds or {}
        names = [model.card.name for model in product.models]
        return [
            Outcome(
                self.source,
                name,
                status,
                sum(spent.get(f"{stage} {name}", 0.0) for stage in ("infer", "write")),
                reason,
            )
            for name in names
        ]

    def _explain(self, error: Exception) -> str:
        """Say what went wrong, in one line; what nobody foresaw leaves its traceback in the log."""
        if isinstance(error, PipeError):
            logger.info("%s failed: %s", self.source.name, error)
            return str(error)
        logger.error("%s failed", self.source.name, exc_info=error)
        return f"unexpected {type(error).__name__}: {error}"
