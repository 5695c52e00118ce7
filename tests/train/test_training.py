"""A small network learns from made heads, goes on after a stop, and says the same when exported."""

import json
from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="training needs torch, the extra [train]")

from brainchop_pipe.models.train import __main__ as command
from brainchop_pipe.models.train.card import export
from brainchop_pipe.models.train.checkpoint import Progress, load_average
from brainchop_pipe.models.train.evaluation import segment
from brainchop_pipe.models.train.finishing import calibration, finished
from brainchop_pipe.models.train.fitting import Training, choose_patch, learning_rate
from brainchop_pipe.models.train.making import Example
from brainchop_pipe.models.train.network import Segmenter
from brainchop_pipe.models.train.settings import Card, Finishing, Fitting, Making, Network, Settings
from brainchop_pipe.models.train.sources import Heads
from made_heads import head_map

from brainchop_pipe.core.grid import Volume, grid_around
from brainchop_pipe.errors import UsageError
from brainchop_pipe.inference.predict import predict
from brainchop_pipe.inference.view import view_of
from brainchop_pipe.steps import load_model

SIZE = (48, 48, 48)
MAKING = Making(least_shape=SIZE, most_shape=SIZE, kinds={"T1w": 1.0}, shift_mm=(2, 2, 2), cropped=0)
NETWORK = Network(widths=(4, 8), refining=4)


def settings(steps: int = 4, **changes: object) -> Settings:
    chosen = {
        "steps": steps,
        "warm_up": 2,
        "decay": 1,
        "average": 0.5,
        "patch": 32,
        "precision": "float32",
        "workers": 0,
        "threads": 1,
        "check_every": 1000,
        "check_images": 1,
        "learning_rate": 0.01,
        **changes,
    }
    return Settings(making=MAKING, network=NETWORK, fitting=Fitting.model_validate(chosen))


def train(folder: Path, chosen: Settings) -> list[dict[str, float]]:
    heads = Heads({"a": torch.from_numpy(head_map())}, ())
    lines: list[dict[str, float]] = []
    Training(chosen, folder).run(heads, heads, lines.append)
    return lines


@pytest.mark.parametrize("body", ["unet", "meshnet"])
def test_loss_falls_within_a_few_steps(tmp_path, body):
    chosen = settings(24, check_every=8)
    network = NETWORK.model_copy(update={"body": body, "dilations": (1, 2, 1)})
    lines = train(tmp_path, chosen.model_copy(update={"network": network}))
    assert [line["step"] for line in lines] == [8, 16, 24]
    assert lines[-1]["loss"] < 0.95 * lines[0]["loss"]


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_missing_gpu_is_told_before_training(tmp_path):
    with pytest.raises(UsageError, match="PyTorch finds none"):
        Training(settings(device="cuda"), tmp_path)


def test_same_seed_gives_the_same_weights_and_another_does_not(tmp_path):
    for name, seed in (("one", 0), ("two", 0), ("three", 1)):
        train(tmp_path / name, settings(seed=seed))
    one, two, three = (load_average(tmp_path / name)[0] for name in ("one", "two", "three"))
    assert all(torch.equal(one[key], two[key]) for key in one)
    assert not torch.equal(one["fine.weight"], three["fine.weight"])


def test_training_in_pieces_is_the_same_as_in_one_go(tmp_path):
    """The rate of learning falls at the end: both pieces are told where that is."""
    train(tmp_path / "whole", settings(4))
    pieces = Training(settings(4), tmp_path / "pieces")
    heads = Heads({"a": torch.from_numpy(head_map())}, ())
    pieces.step = stop_after(pieces, 2)
    pieces.run(heads, heads, lambda _: None)
    assert load_average(tmp_path / "pieces")[2].step == 2
    train(tmp_path / "pieces", settings(4))
    whole, resumed = load_average(tmp_path / "whole"), load_average(tmp_path / "pieces")
    assert resumed[2].step == whole[2].step == 4
    assert all(torch.equal(whole[0][key], resumed[0][key]) for key in whole[0])


def stop_after(training: Training, steps: int):
    """Stop a training as SIGTERM does."""
    go = training.step

    def step(example):
        loss = go(example)
        if training.progress.step == steps:
            training._stop(15, None)
        return loss

    return step


def test_checkpoint_of_another_network_is_refused(tmp_path):
    train(tmp_path, settings(1))
    wider = settings(1).model_copy(update={"network": Network(widths=(8, 8), refining=4)})
    with pytest.raises(ValueError, match="is of another network than the configuration describes"):
        Training(wider, tmp_path)


def test_training_starts_with_the_weights_of_an_exported_model(tmp_path):
    train(tmp_path / "first", settings(4))
    weights, chosen, progress = load_average(tmp_path / "first")
    network = Segmenter(chosen.network)
    network.load_state_dict(weights)
    card = export(network, chosen, progress, tmp_path)
    begun = Training(settings(start=str(card)), tmp_path / "second")
    for found in (begun.network.state_dict(), begun.average.weights):
        assert found.keys() == weights.keys()
        assert all(torch.equal(found[key], weights[key]) for key in weights)


def test_embedded_model_can_be_started_with(tmp_path):
    chosen = settings(start="brainchop_any").model_copy(update={"network": Network()})
    begun = Training(chosen, tmp_path).network
    pairs = zip(begun.parameters(), Segmenter(Network()).parameters(), strict=True)
    assert not any(torch.equal(found, new) for found, new in pairs if new.ndim == 5)


def test_model_of_another_network_is_not_started_with(tmp_path):
    with pytest.raises(UsageError, match="no export of the network that the configuration describes"):
        Training(settings(start="brainchop_any"), tmp_path)


def test_exported_network_gives_the_same_labels(tmp_path):
    """Refinement within the box of the brain changes nothing where the brain is found."""
    train(tmp_path / "run", settings(30))
    weights, chosen, progress = load_average(tmp_path / "run")
    network = Segmenter(chosen.network)
    network.load_state_dict(weights)
    chosen = chosen.model_copy(update={"card": Card(name="tiny")})
    ready = load_model(str(export(network, chosen, progress, tmp_path)))
    head = np.zeros((256, 256, 256), np.uint8)
    head[100:164, 96:160, 90:138] = (head_map()[:, :, :48] > 0) * 100
    head[110:140, 110:140, 100:130] = 200
    volume = Volume(head, grid_around(np.zeros(3), head.shape, (1.0, 1.0, 1.0), "LIA"))
    view = view_of((volume,), ready.card)
    found = predict(view, ready.content, ready.card).labels.voxels[view.box]
    expected = segment(network, torch.from_numpy(view.channels[0])).numpy()
    assert len(np.unique(expected)) > 1
    assert (found == expected).mean() > 0.9999


def test_exported_network_that_finds_no_brain_looks_everywhere(tmp_path):
    network = Segmenter(NETWORK).eval()
    torch.nn.init.constant_(network.coarse.bias, -50)
    ready = load_model(str(export(network, Settings(card=Card(name="blind")), Progress(), tmp_path)))
    volume = Volume(
        np.full((256, 256, 256), 7, np.uint8), grid_around(np.zeros(3), [256] * 3, (1.0,) * 3, "LIA")
    )
    view = view_of((volume,), ready.card)
    small = type(view)(view.channels[:, :32, :32, :32], volume.grid, (slice(0, 32),) * 3)
    found = predict(small, ready.content, ready.card)
    assert not found.labels.voxels.any()
    assert found.box == small.box


def test_rate_of_learning_rises_stays_and_falls():
    fitting = Fitting(steps=100, warm_up=10, decay=20, learning_rate=1.0)
    rates = [learning_rate(step, fitting) for step in range(101)]
    assert rates[0] == pytest.approx(0.1)
    assert rates[9:80] == [1.0] * 71
    assert rates[90] == pytest.approx(0.5)
    assert rates[100] == 0


def test_part_that_is_refined_has_even_corners_and_lies_in_the_volume():
    tissues = torch.zeros(SIZE, dtype=torch.uint8)
    tissues[40:, 40:, 40:] = 1
    for seed in range(20):
        box = choose_patch(tissues, 32, np.random.default_rng(seed))
        assert [s.stop - s.start for s in box] == [32] * 3
        assert all(s.start % 2 == 0 and s.stop <= 48 for s in box)
        assert tissues[tuple(box)].any()


def test_command_trains_evaluates_exports_draws_and_compares(tmp_path, monkeypatch, capsys):
    """All from one file; paths in it start where it stands."""
    from conftest import save

    affine = np.array([[-1.0, 0, 0, 24], [0, 0, 1, -24], [0, -1, 0, 24], [0, 0, 0, 1]])
    for name in ("a", "b"):
        save(tmp_path / "maps" / f"{name}.nii.gz", head_map(numbers=True).astype(np.int16), affine)
    (tmp_path / "small.toml").write_text(
        '[data]\nlabel_maps = ["maps/*.nii.gz"]\nleft_out = ["b"]\n'
        "[making]\nleast_shape = [48, 48, 48]\nmost_shape = [48, 48, 48]\nkinds = {T1w = 1.0}\n"
        "[network]\nwidths = [4, 8]\nrefining = 4\n"
        "[fitting]\nsteps = 4\ncheck_every = 2\ncheck_images = 1\nworkers = 0\nthreads = 1\npatch = 32\n"
        '[card]\nname = "tiny"\ncrop_measured_on = "nothing"\n'
    )
    config, run = str(tmp_path / "small.toml"), str(tmp_path / "run")
    dseg = save(tmp_path / "dseg.nii.gz", (head_map() > 0).astype(np.uint8), affine)
    image = save(tmp_path / "T1w.nii.gz", head_map().astype(np.float32) * 10, affine)
    for words in (
        ["fit", config, run],
        ["evaluate", config, run, "--images", "1", "--pair", str(image), str(dseg)],
        ["calibrate", config, run, "--images", "1"],
        ["export", config, run, str(tmp_path)],
        ["curves", config, run, str(tmp_path / "curves.png")],
        ["compare", run],
    ):
        monkeypatch.setattr("sys.argv", ["train", *words])
        command.main()
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines() if line.startswith("{")]
    assert [line["step"] for line in lines[:2]] == [2, 4]
    assert lines[2]["kind"] == "T1w"
    assert 0 <= lines[3]["mask"] <= 1
    calibrated, compared = lines[4:-1], lines[-1]
    assert {line["kind"] for line in calibrated} == {"T1w"}
    assert compared["parameters"] > 0
    assert compared["peak MB"] > 0
    assert (tmp_path / "curves.png").read_bytes().startswith(b"\x89PNG")
    assert "4 steps" in json.loads((tmp_path / "tiny.json").read_text())["training_data"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[fitting]\nstep = 1", "fitting.step: Extra inputs are not permitted"),
        ("[data", "is no TOML"),
        ("[data]", "names no label maps or pairs to train on"),
        ('[data]\nlabel_maps = ["*.nii.gz"]\nleft_out = ["z"]', "to leave out are not there: z"),
    ],
)
def test_configuration_that_cannot_be_used_is_refused(tmp_path, monkeypatch, capsys, text, message):
    (tmp_path / "c.toml").write_text(text)
    monkeypatch.setattr("sys.argv", ["train", "fit", str(tmp_path / "c.toml"), str(tmp_path / "run")])
    with pytest.raises(SystemExit, match="64"):
        command.main()
    assert message in capsys.readouterr().err


def test_exported_network_lies_between_the_start_and_what_training_came_to(tmp_path):
    train(tmp_path / "first", settings())
    first = load_average(tmp_path / "first")[0]
    named = settings().model_copy(update={"card": Card(name="first")})
    card = export(finished(first, named), named, Progress(), tmp_path)
    train(tmp_path / "second", settings(start=str(card), seed=1))
    second = load_average(tmp_path / "second")[0]
    going_on = settings(start=str(card))
    for share in (0.0, 0.25, 1.0):
        chosen = going_on.model_copy(update={"finishing": Finishing(start_share=share, white_offset=0.5)})
        weights = finished(second, chosen).state_dict()
        for name, value in weights.items():
            expected = share * first[name] + (1 - share) * second[name]
            # White matter's is the first of the scores.
            expected += torch.tensor([0.5, 0, 0]) if name == "fine.bias" else 0
            torch.testing.assert_close(value, expected)


def test_share_of_no_start_is_refused(tmp_path):
    """It would be a share of weights drawn by lot."""
    train(tmp_path, settings(steps=1))
    chosen = settings().model_copy(update={"finishing": Finishing(start_share=0.5)})
    with pytest.raises(UsageError, match="began with no model"):
        finished(load_average(tmp_path)[0], chosen)


class _ByBrightness(torch.nn.Module):
    """Calls white what is brighter than 0.7, and grey what is darker."""

    def forward(self, image):
        return image, image, image

    def refined(self, image, *_):
        return torch.cat([image - 0.7, 0.7 - image, torch.full_like(image, -9)], dim=1) + 1


def test_calibration_finds_the_offset_that_gives_as_much_white_matter_as_there_is():
    image = torch.linspace(0, 1, 32).reshape(-1, 1, 1).expand(32, 32, 32).contiguous()
    truth = torch.where(image > 0.6, 1, 2).to(torch.uint8)
    rows = {row["white_offset"]: row for row in calibration(_ByBrightness(), [Example(image, truth)])}
    assert rows[0.0]["WM volume"] < 1 < rows[0.0]["GM volume"]
    assert (rows[0.2]["WM volume"], rows[0.2]["WM"], rows[0.2]["mask"]) == (1, 1, 1)
    assert rows[0.4]["WM volume"] > 1
