from pathlib import PurePosixPath

import pytest

from brainchop_pipe.bids.names import Source, parse_name


def source(name: str, suffix: str | None = None) -> Source:
    parsed = parse_name(name) or ((), "T1w")
    return Source(PurePosixPath("sub-1/anat"), name, name, "sub-1", parsed[0], suffix or parsed[1])


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("sub-01_T1w.nii.gz", ((("sub", "01"),), "T1w")),
        (
            "sub-01_ses-a_acq-x_run-2_T2w.nii",
            ((("sub", "01"), ("ses", "a"), ("acq", "x"), ("run", "2")), "T2w"),
        ),
        ("head.nii.gz", None),
        ("sub-01_my scan_T1w.nii.gz", None),
        ("sub-01_foo-1_T1w.nii.gz", None),
        ("sub-01_desc-preproc_T1w.nii.gz", None),
    ],
)
def test_names_are_split_into_entities(name, expected):
    assert parse_name(name) == expected


def test_derivatives_keep_entities_in_bids_order():
    name = source("sub-01_ses-a_run-2_chunk-1_T1w.nii.gz").derivative("dseg", ".nii.gz", seg="x", desc="y")
    assert name.name == "sub-01_ses-a_run-2_chunk-1_seg-x_desc-y_dseg.nii.gz"


def test_contrasts_other_than_t1w_never_get_the_bare_names():
    name = source("sub-01_chunk-1_T2w.nii.gz").derivative("mask", ".nii.gz", desc="brain")
    assert name.name == "sub-01_space-T2w_chunk-1_desc-brain_mask.nii.gz"


def test_file_of_no_dataset_keeps_its_own_name():
    assert source("my.scan v2.nii.gz").derivative("dseg", ".nii.gz").name == "my.scan v2_dseg.nii.gz"


def test_inputs_that_would_write_the_same_files_have_one_key():
    assert source("sub-01_T1w.nii").key == source("sub-01_T1w.nii.gz").key
    assert source("sub-01_T1w.nii").key != source("sub-01_T2w.nii").key
