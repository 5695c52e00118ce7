"""One image through all of a run's models, into its derivatives."""

import logging
import shutil
import traceback
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any

from brainchop_pipe.workflows.draw_pictures import Pictures, draw_pictures
from brainchop_pipe.workflows.further_files import with_further_files
from brainchop_pipe.workflows.outcome import Outcome, Status
from brainchop_pipe.workflows.participant_report import forget_report, page_path, picture_job
from brainchop_pipe.workflows.publish_product import StepFiles, publish_product
from brainchop_pipe.workflows.suitability import refusal

from brainchop_pipe.bids.derivatives import (
    SHARED_EXTRAS,
    Extra,
    Product,
    label_table,
    plan_products,
    volume_table_place,
)
from brainchop_pipe.bids.names import Source
from brainchop_pipe.bids.provenance import FileState, signature
from brainchop_pipe.bids.publish import is_complete, sidecar_path
from brainchop_pipe.bids.results import read_result
from brainchop_pipe.engines.lanes import Lanes
from brainchop_pipe.errors import PipeError, UsageError
from brainchop_pipe.file_steps import mask_image_file
from brainchop_pipe.images import read_place
from brainchop_pipe.settings import Settings
from brainchop_pipe.step_files import BrainFiles
from brainchop_pipe.zoo.catalog import Model
from brainchop_pipe.zoo.plan import DEFAULT_MASK_MODEL, NO_TISSUE_MODEL

if TYPE_CHECKING:
    from brainchop_pipe.engines.pydra_worker import SegmentOutcome

logger = logging.getLogger(__name__)


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
    work = _ImageWork(source, path, plan_image(usable, settings), settings)
    return outcomes + await work.run(workplace)


def plan_image(models: tuple[Model, ...], settings: Settings) -> tuple[Product, ...]:
    """Decide what is to be made of an image on which these models may run."""
    return plan_products(models, settings.processing, _wanted_extras(settings))


def is_done(source: Source, path: Path, products: tuple[Product, ...], settings: Settings) -> bool:
    """Tell, without opening an image, whether nothing is left to do for one, pictures and page included.

    Parameters
    ----------
    source, path
        See `segment_image`.
    products : tuple of Product
        See `plan_image`.
    settings : Settings

    Returns
    -------
    bool
        False as well where it cannot be told: a run will say what is wrong.
    """
    work = _ImageWork(source, path, products, settings)
    try:
        return not work.find_missing(FileState.of(path)) and work.is_reported()
    except (PipeError, OSError):
        return False


def _wanted_extras(settings: Settings) -> tuple[Extra, ...]:
    """Name the files that are written besides, by what was asked for."""
    files: dict[str, tuple[Extra, ...]] = {
        "prepared": ("prepared",),
        "conformed": ("conformed head", "conformed labels"),
        "brain": ("extracted",),
    }
    return tuple(extra for asked in settings.extras for extra in files[asked])


def check_extras(models: tuple[Model, ...], settings: Settings) -> None:
    """Refuse what is to be written besides where no model of the run can write it.

    Raises
    ------
    UsageError
    """
    wanted = _wanted_extras(settings)
    able = {
        extra for product in plan_products(models, settings.processing, wanted) for extra in product.extras
    }
    if "extracted" in wanted and "extracted" not in able:
        raise UsageError(
            f"--write-also brain needs a model that finds the brain, such as {DEFAULT_MASK_MODEL}"
        )
    if "prepared" in wanted and "prepared" not in able:
        raise UsageError("--write-also prepared: no model of this run sees the brain; give --prepare brain")


class _ImageWork:
    """The products of one image: what is missing, and how it comes into its place."""

    def __init__(self, source: Source, path: Path, products: tuple[Product, ...], settings: Settings) -> None:
        self.source = source
        self.path = path
        self.settings = settings
        self.products = products

    async def run(self, workplace: Workplace) -> list[Outcome]:
        """Do what is missing; the one place where any exception becomes an outcome."""
        outcomes: list[Outcome] = []
        missing = list(self.products)
        try:
            read_place(self.path, self.settings.processing.prefer_affine)
            state = FileState.of(self.path)
            missing = self.find_missing(state)
            complete = [p for p in self.products if p not in missing]
            outcomes = [o for p in complete for o in self._outcomes(p, "complete")]
            await self._draw(complete, self.path, workplace)
            if missing:
                outcomes += await self._make(missing, state, workplace)
        except Exception as error:  # noqa: BLE001 - one bad image must not stop the others
            outcomes += [o for p in missing for o in self._failed(p, error)]
        return outcomes

    def find_missing(self, state: FileState) -> list[Product]:
        """Find out which products are not there, whole and made in this way; errors as of `find_mask`."""
        self.settings = with_further_files(self.settings, self.source, self.path, self.products)
        return [p for p in self.products if not self._is_complete(p, state)]

    def is_reported(self) -> bool:
        """Tell whether all label maps were drawn, and the participant's page written."""
        out = self.settings.output_dir
        maps = [out / product.label_map(self.source) for product in self.products]
        drawn = all(Pictures.of(out, place).are_there for place in maps)
        return drawn and page_path(out, self.source.participant).is_file()

    def _is_complete(self, product: Product, state: FileState) -> bool:
        return not self.settings.force and is_complete(
            self.settings.output_dir,
            [place for name, place in product.files(self.source).items() if name not in SHARED_EXTRAS],
            self._without_sidecar(product),
            signature(product, self.settings),
            self.path,
            state,
            check_hashes=self.settings.check_hashes,
        )

    def _without_sidecar(self, product: Product) -> list[PurePosixPath]:
        """Give the places of a product's files that only have to be there, whoever made them."""
        labels = label_table(self.source, product, self.settings.processing.label_scheme)
        shared = [place for name, place in product.files(self.source).items() if name in SHARED_EXTRAS]
        return [*labels, volume_table_place(self.source, product), *shared]

    async def _make(self, missing: list[Product], state: FileState, workplace: Workplace) -> list[Outcome]:
        """Run the workflow for the missing products, and publish what comes out of it."""
        # Pydra takes half a second to import, which a run that has nothing to do need not spend.
        from brainchop_pipe.engines.pydra_worker import run_segment

        folder = workplace.folder / self.source.stem
        try:
            made = await run_segment(workplace.lanes, folder, **self._inputs(missing))
            results = ([made.tissues] if made.tissues else []) + list(made.labels)
            outcomes = []
            for product, result in zip(missing, results, strict=True):
                extras = await self._extras(product, result, made, folder, workplace)
                outcomes.append(self._publish(product, result, state, made.conform_seconds, extras))
            # Those that failed too: what was there before may still be, and lost its pictures.
            await self._draw(missing, made.conformed or self.path, workplace, anew=True)
            return [outcome for found in outcomes for outcome in found]
        finally:
            shutil.rmtree(folder, ignore_errors=True)

    async def _extras(
        self,
        product: Product,
        result: StepFiles | Exception,
        made: "SegmentOutcome",
        folder: Path,
        workplace: Workplace,
    ) -> dict[Extra, Path] | Exception:
        """Give the images that a product writes besides, in the work folder."""
        found: dict[Extra, Path] = {}
        if "prepared" in product.extras and isinstance(made.brain, BrainFiles):
            found["prepared"] = made.brain.brain
        if "conformed head" in product.extras and made.conformed is not None:
            found["conformed head"] = made.conformed
        if "extracted" in product.extras and not isinstance(result, Exception):
            found["extracted"] = folder / "extracted.nii"
            arguments = (self.path, result[0], found["extracted"], self.settings.processing.prefer_affine)
            try:
                await workplace.lanes.run(mask_image_file, *arguments)
            except Exception as error:  # noqa: BLE001 - the product fails, not the image
                return error
        return found

    async def _draw(
        self, products: list[Product], head: Path, workplace: Workplace, *, anew: bool = False
    ) -> None:
        """Draw label maps that are in their place, on a head; those that were drawn before if `anew`."""
        jobs = []
        for product in products:
            place = self.settings.output_dir / product.label_map(self.source)
            is_drawn = Pictures.of(self.settings.output_dir, place).are_there and not anew
            if is_drawn or not place.is_file():
                continue
            result = read_result(self.settings.output_dir, sidecar_path(place))
            if result is not None:
                jobs.append(picture_job(result))
        if jobs:
            try:
                await workplace.lanes.run(draw_pictures, head, jobs, self.settings.processing.prefer_affine)
            except Exception as error:
                logger.warning("%s: no pictures were drawn", self.source.name, exc_info=error)

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
            "keep_conformed": "conformed" in self.settings.extras,
            "device": processing.device,
            "precision": processing.precision,
            "threads": processing.threads,
            "mem_gb": processing.mem_gb,
        }

    def _publish(
        self,
        product: Product,
        result: StepFiles | Exception,
        state: FileState,
        conform_seconds: float,
        extras: dict[Extra, Path] | Exception,
    ) -> list[Outcome]:
        try:
            if isinstance(result, Exception):
                raise result
            if isinstance(extras, Exception):
                raise extras
            settings = self.settings
            # Before the maps: a kill at any moment leaves no picture of others.
            forget_report(settings.output_dir, product.label_map(self.source), self.source.participant)
            record = publish_product(self.source, product, result, state, settings, conform_seconds, extras)
        except Exception as error:  # noqa: BLE001 - one bad model must not stop the others
            return self._failed(product, error)
        return self._outcomes(product, "done", " ".join((*record.notes, *record.flags)), record.seconds)

    def _outcomes(
        self, product: Product, status: Status, reason: str = "", seconds: dict[str, float] | None = None
    ) -> list[Outcome]:
        spent = seconds or {}
        names = dict.fromkeys(model.card.name for model in product.models)
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

    def _failed(self, product: Product, error: Exception) -> list[Outcome]:
        """Say what went wrong, in one line; what nobody foresaw leaves its traceback."""
        if isinstance(error, PipeError):
            logger.info("%s failed: %s", self.source.name, error)
            return self._outcomes(product, "failed", str(error))
        logger.error("%s failed", self.source.name, exc_info=error)
        trace = tuple("".join(traceback.format_exception(error)).splitlines())
        reason = f"unexpected {type(error).__name__}: {error}"
        return [replace(o, traceback=trace) for o in self._outcomes(product, "failed", reason)]
