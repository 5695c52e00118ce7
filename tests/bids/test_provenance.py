import getpass
import json
import platform
from pathlib import Path

from brainchop_pipe.bids import provenance as module
from brainchop_pipe.bids.derivatives import Product
from brainchop_pipe.bids.environment import code_record, environment_record
from brainchop_pipe.bids.provenance import model_record, signature
from brainchop_pipe.settings import Processing, Settings
from brainchop_pipe.zoo.catalog import find_models


def test_signature_changes_with_all_that_decides_an_output(cards, monkeypatch):
    mask, tissue = find_models((cards.mask, cards.tissue))
    settings = Settings(Path("out"))
    full = Settings(Path("out"), Processing(full_volume=True))
    elsewhere = Settings(Path("other"), Processing(device="cpu", threads=2, mem_gb=3))
    first = signature(Product((mask,)), settings)
    assert first == signature(Product((mask,)), elsewhere)
    products = Product((tissue,)), Product((mask, tissue), mask), Product((tissue,), mask)
    others = {signature(Product((mask,)), full), *(signature(product, settings) for product in products)}
    monkeypatch.setattr(module, "code_version", lambda: "another")
    others.add(signature(Product((mask,)), settings))
    assert len(others | {first}) == 6


def test_signature_holds_what_a_product_sees_and_nothing_else(cards, tmp_path):
    mask, tissue = find_models((cards.mask, cards.tissue))
    (tmp_path / "mask.nii").write_bytes(b"a mask")
    given = Settings(Path("out"), Processing(mask=tmp_path / "mask.nii"))
    plain, scheme = Settings(Path("out")), Settings(Path("out"), Processing(label_scheme="freesurfer"))
    pair, alone = Product((mask, tissue), mask), Product((tissue,))
    assert signature(alone, plain) == signature(alone, given) != signature(alone, scheme)
    assert signature(pair, given) != signature(pair, plain) == signature(pair, scheme)


def test_records_name_no_host_user_or_path(cards):
    (mask,) = find_models((cards.mask,))
    text = json.dumps([code_record(), environment_record(), model_record(mask).as_json()])
    assert str(Path.cwd()) not in text
    assert platform.node() not in text
    assert f'"{getpass.getuser()}"' not in text
