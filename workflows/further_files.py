"""What belongs to an image besides itself: its brain mask, if others made it, and its further contrasts."""

import re
from dataclasses import replace
from pathlib import Path

from brainchop_pipe.bids.derivatives import Product
from brainchop_pipe.bids.names import Source
from brainchop_pipe.errors import MissingInputError
from brainchop_pipe.settings import Settings
from brainchop_pipe.zoo.catalog import Model

_SUFFIX = re.compile(r"_[A-Za-z0-9]+(\.nii(?:\.gz)?|\.mg[hz])$")


def with_further_files(
    settings: Settings, source: Source, path: Path, products: tuple[Product, ...]
) -> Settings:
    """Give the settings of a run with what belongs to one image.

    Parameters
    ----------
    settings : Settings
    source : Source
    path : Path
        The image.
    products : tuple of Product
        Those that are to be made of it; a mask is looked for only where one needs it.

    Raises
    ------
    MissingInputError
        See `find_mask`.
    """
    mask = find_mask(settings, source) if any(product.mask_model for product in products) else None
    contrasts = find_contrasts(path, tuple(model for product in products for model in product.models))
    processing = replace(settings.processing, mask=mask, contrasts=tuple(contrasts.items()))
    return replace(settings, processing=processing)


def find_mask(settings: Settings, source: Source) -> Path | None:
    """Find the brain mask that takes the place of a model's; None where no masks were given.

    Raises
    ------
    MissingInputError
        A mask was given that is not there, or none of the derivatives has one of this
        image.
    """
    given = settings.processing.mask
    if given is None and not settings.derivatives:
        return None
    file = source.derivative("mask", ".nii.gz", desc="brain")
    places = [given] if given else [folder / file for _, folder in settings.derivatives]
    mask = next((place.resolve() for place in places if place.is_file()), None)
    if mask is None:
        wanted = given or f"{file} in {', '.join(name for name, _ in settings.derivatives)}"
        raise MissingInputError(
            f"there is no brain mask {wanted} of {source.name}; put it there, or leave masks to the model"
        )
    return mask


def find_contrasts(path: Path, models: tuple[Model, ...]) -> dict[str, Path]:
    """Find the further contrasts that models of several channels need.

    Parameters
    ----------
    path : Path
        The first contrast, such as ``sub-1_T1w.nii.gz``.
    models : tuple of Model

    Returns
    -------
    dict of str to Path
        By suffix: ``sub-1_FLAIR.nii.gz`` in the same folder, or ``.nii``. Those that are
        not there are left out.
    """
    wanted = dict.fromkeys(suffix for model in models for suffix in model.card.input.contrasts[1:])
    found = {}
    for suffix in wanted:
        names = (_SUFFIX.sub(f"_{suffix}{ending}", path.name) for ending in (".nii.gz", ".nii"))
        place = next((path.with_name(name) for name in names if path.with_name(name).is_file()), None)
        if place is not None and place != path:
            found[suffix] = place
    return found
