import json
from pathlib import PurePosixPath

import pytest

from brainchop_pipe.bids.derivatives import (
    label_table,
    plan_products,
    sidecar_metadata,
    write_dataset_files,
)
from brainchop_pipe.bids.names import Source
from brainchop_pipe.errors import UsageError
from brainchop_pipe.settings import Processing
from brainchop_pipe.zoo.catalog import find_models
from brainchop_pipe.zoo.plan import check_tissue_model
from conftest import make_card

T1W = Source(PurePosixPath("sub-1/anat"), "sub-1_T1w.nii.gz", "bids:raw:x", "sub-1", (("sub", "1"),), "T1w")
T2W = Source(PurePosixPath("sub-1/anat"), "sub-1_T2w.nii.gz", "bids:raw:y", "sub-1", (("sub", "1"),), "T2w")


@pytest.fixture
def models(tmp_path, cards):
    second = make_card(tmp_path / "second", "tissue", name="second_tissue", bids_label="second")
    by_name = {m.card.name: m for m in find_models((cards.mask, cards.tissue, cards.regions, str(second)))}
    return lambda *names: tuple(by_name[name] for name in names)


def files(source, products):
    return [str(path.name) for product in products for path in product.files(source).values()]


TRUSTED = [
    "sub-1_desc-brain_mask.nii.gz",
    "sub-1_dseg.nii.gz",
    "sub-1_label-GM_probseg.nii.gz",
    "sub-1_label-WM_probseg.nii.gz",
    "sub-1_label-CSF_probseg.nii.gz",
]


def test_mask_and_tissue_model_together_own_the_trusted_names(models):
    products = plan_products(models("made_regions", "made_tissue", "made_mask"), Processing())
    assert files(T1W, products) == [*TRUSTED, "sub-1_seg-maderegions_desc-regions_dseg.nii.gz"]


@pytest.mark.parametrize("alone", ["made_mask", "made_tissue", "made_regions"])
def test_no_model_gets_a_trusted_name_alone(models, alone):
    label = alone.replace("_", "")
    (name,) = files(T1W, plan_products(models(alone), Processing()))
    assert name.startswith(f"sub-1_seg-{label}_desc-")


def test_mask_model_without_csf_owns_nothing(tmp_path, models):
    output = json.loads(make_card(tmp_path, "mask").read_text())["output"]
    card = make_card(tmp_path, "mask", output={**output, "includes_csf": False})
    (mask,) = find_models((str(card),))
    products = plan_products((mask, *models("made_tissue")), Processing())
    assert not any(product.is_tissue_set for product in products)


def test_first_tissue_model_owns_the_maps_unless_another_is_named(models):
    run = models("made_mask", "made_tissue", "second_tissue")
    assert "sub-1_seg-second_desc-tissue_dseg.nii.gz" in files(T1W, plan_products(run, Processing()))
    for name in ("second_tissue", "second"):
        assert "sub-1_seg-madetissue_desc-tissue_dseg.nii.gz" in files(
            T1W, plan_products(run, Processing(tissue_model=name))
        )


@pytest.mark.parametrize(
    "run", [("made_tissue",), ("made_mask", "second_tissue"), ("made_mask", "made_regions")]
)
def test_owner_that_cannot_be_one_is_refused(models, run):
    with pytest.raises(UsageError, match="--tissue-model made_tissue cannot own"):
        check_tissue_model(models(*run), "made_tissue")


def test_owner_that_can_be_one_is_taken(models):
    check_tissue_model(models("made_mask", "made_tissue"), "made_tissue")
    check_tissue_model(models("made_mask"), None)


def test_other_contrasts_name_their_space(models):
    assert files(T2W, plan_products(models("made_mask", "made_tissue"), Processing()))[:2] == [
        "sub-1_space-T2w_desc-brain_mask.nii.gz",
        "sub-1_space-T2w_dseg.nii.gz",
    ]


@pytest.mark.parametrize(
    ("content", "key", "value"),
    [("mask", "Type", "Brain"), ("dseg", "Manual", False), ("segmentation", "Manual", False)],
)
def test_sidecars_have_the_keys_of_bids(models, content, key, value):
    (product,) = plan_products(models("made_regions"), Processing())
    metadata = sidecar_metadata(content, T2W, product)
    assert metadata[key] == value
    assert metadata["Sources"] == ["bids:raw:y"]
    assert metadata["SpatialReference"] == "bids:raw:y"


def test_label_tables_stand_beside_label_maps(models):
    tissue, regions = plan_products(models("made_mask", "made_tissue", "made_regions"), Processing())
    ((path, table),) = label_table(T1W, tissue, "compact").items()
    assert path.name == "sub-1_dseg.tsv"
    assert table.decode().splitlines()[1:3] == ["0\tBackground\tBG\t#000000", "1\tGrey matter\tGM\t#D55E00"]
    ((path, table),) = label_table(T1W, regions, "compact").items()
    assert path.name == "sub-1_seg-maderegions_desc-regions_dseg.tsv"
    assert table.decode().splitlines()[2] == "1\tClass 1\tn/a\t#808080\tn/a"


def test_dataset_description_links_to_the_raw_data(tmp_path, dataset):
    write_dataset_files(tmp_path / "out dir", dataset, {"Name": "brainchop_pipe", "Version": "1"})
    description = json.loads((tmp_path / "out dir" / "dataset_description.json").read_text())
    assert description["DatasetLinks"] == {"raw": "../bids"}
    assert description["Name"].endswith("of made")
    assert description["Authors"][:2] == ["A", "B"]


@pytest.mark.parametrize("content", [None, "{", "[]", '{"Authors": "A"}'])
def test_raw_dataset_without_a_description_can_be_described(tmp_path, dataset, content):
    (dataset / "dataset_description.json").unlink()
    if content is not None:
        (dataset / "dataset_description.json").write_text(content)
    write_dataset_files(tmp_path / "out", dataset, {"Name": "brainchop_pipe"})
    assert "without a name" in (tmp_path / "out" / "dataset_description.json").read_text()
