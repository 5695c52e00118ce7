"""Which images are meant for which models, and which can have derivatives at all."""

from brainchop_pipe.bids.names import Source
from brainchop_pipe.zoo.catalog import Model

# Complex images are stored part by part; only the magnitude is a picture of a head.
_MAGNITUDE = (None, "mag")


def refusal(source: Source, model: Model, modalities: tuple[str, ...]) -> str:
    """Say why a model is not for an image; empty where it is.

    Parameters
    ----------
    source : Source
    model : Model
    modalities : tuple of str
        Contrasts that were asked for.
    """
    if source.suffix not in modalities:
        return f"{source.suffix} is not among --modality {' '.join(modalities)}"
    if not is_magnitude(source):
        return "not a magnitude image (part-)"
    if source.suffix not in model.card.modalities:
        return (
            f"{model.card.name} was not trained for {source.suffix}, only {', '.join(model.card.modalities)}"
        )
    return ""


def is_magnitude(source: Source) -> bool:
    """Tell whether an image is a picture of a head, and not another part of a complex one."""
    return dict(source.entities).get("part") in _MAGNITUDE


def cannot_be_named(source: Source, inputs_of_that_name: int = 1) -> str:
    """Say why an image's derivatives cannot have names of their own; empty where they can."""
    if source.uri.startswith("bids:") and not source.entities:
        return f"{source.name} has a name that is not that of a raw BIDS image; rename it"
    if inputs_of_that_name > 1:
        return f"another input (.nii beside .nii.gz?) would write the same files as {source.name}; remove one"
    return ""
