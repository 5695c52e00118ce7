"""The tasks of brainchop_pipe, where users of Pydra look for them."""

from brainchop_pipe.engines.pydra_tasks import (
    Conform,
    CorrectBias,
    ExtractBrain,
    Infer,
    PostFilter,
    Restore,
    Segment,
    SegmentLabels,
    SegmentTissues,
)

__all__ = [
    "Conform",
    "CorrectBias",
    "ExtractBrain",
    "Infer",
    "PostFilter",
    "Restore",
    "Segment",
    "SegmentLabels",
    "SegmentTissues",
]
