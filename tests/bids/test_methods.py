import re

from brainchop_pipe.bids.methods import describe_methods
from brainchop_pipe.bids.sidecar import ExecutionRecord, FurtherFile
from brainchop_pipe.record import EVEN_HEAD, NOISE_CLEARED, TISSUES_BROUGHT
from made_outputs import made_provenance, made_source

SOURCE = made_source("sub-01_T1w.nii.gz")


def execution(**changes: object) -> ExecutionRecord:
    known = {"requested_device": "auto", "provider": "CPUExecutionProvider", "fallbacks": (), "threads": 1}
    return ExecutionRecord(**{**known, "precision": "float32", **changes})


def test_references_are_numbered_in_the_order_of_their_use():
    methods = describe_methods([made_provenance(SOURCE)])
    numbers = [int(n) for n in re.findall(r"\[(\d+)\]", methods.paragraph)]
    assert numbers == sorted(numbers) == list(range(1, len(methods.references) + 1))
    assert methods.references[-1] == "Maker (2026) A paper"
    assert methods.as_markdown().count("doi:") == sum("doi:" in r for r in methods.references)


def test_preparation_and_given_masks_are_told():
    brain = execution(preparation="mask of made, N4 bias correction within it")
    masked = execution(preparation="mask of made, the rest set to 0")
    brought = execution(preparation=f"mask of made, N4 bias correction within it, {TISSUES_BROUGHT} brought")
    even, noisy = execution(preparation=EVEN_HEAD), execution(preparation=EVEN_HEAD + NOISE_CLEARED)
    record = made_provenance(
        SOURCE,
        execution={"one": brain, "two": masked, "three": even, "four": noisy, "five": brought},
        given_mask=FurtherFile(sha256="0" * 64),
    )
    text = describe_methods([record]).paragraph
    assert "For three and four the bias field of the head was corrected with N4" in text
    assert "noise stood out in the air around a head, four saw it set to 0" in text
    assert "For one the brain was masked, its bias field corrected with N4" in text
    assert "For five the brain was masked" in text
    assert "medians of its CSF, grey and white matter brought to fixed levels" in text
    assert "For two what lies outside of the brain was set to 0" in text
    assert "Brain masks of another origin took the place of a model's" in text


def test_images_whose_tissues_could_not_be_told_apart_are_told_of():
    """One model, of which the sidecars of two images say different things, is told of once."""
    alone = "mask of made, N4 bias correction within it, white matter scaled"
    brought = f"mask of made, N4 bias correction within it, {TISSUES_BROUGHT} brought"
    records = [
        made_provenance(SOURCE, execution={"one": execution(preparation=done)}) for done in (alone, brought)
    ]
    told = "Where the tissues could not be told apart, white matter alone was brought to its level"
    both = describe_methods(records).paragraph
    assert told in both
    assert both.count("For one the brain was masked") == 1
    assert all(told not in describe_methods([record]).paragraph for record in records)


def test_several_versions_and_providers_are_listed():
    other = made_provenance(
        SOURCE,
        code={"Name": "brainchop_pipe", "Version": "2.0"},
        execution={"made": execution(provider="CUDAExecutionProvider")},
    )
    text = describe_methods([made_provenance(SOURCE), other]).paragraph
    assert "brainchop_pipe 1.0 and 2.0" in text
    assert "(CPUExecutionProvider; float32) and ONNX Runtime 1.0 (CUDAExecutionProvider; float32)" in text
