import os
import subprocess
import sys
from types import SimpleNamespace

import numpy as np
import pytest

from brainchop_pipe.errors import ModelError, ProviderError
from brainchop_pipe.inference import native_layers, openvino_runner
from brainchop_pipe.inference import onnxruntime_runner as runner
from brainchop_pipe.inference import session as module
from brainchop_pipe.inference.session import (
    available_devices,
    first_choice,
    gpus_of,
    load_library,
    open_session,
    replace_with_cpu,
)
from conftest import linear_model, require_native, require_openvino
from networks import mesh_net, unet

MODEL = linear_model([0, 1], [0, 0])
VOLUME = np.ones((1, 1, 4, 4, 4), np.float32)


@pytest.fixture(autouse=True)
def _empty_cache(monkeypatch):
    monkeypatch.setattr(module, "_sessions", type(module._sessions)())


@pytest.fixture
def without_openvino(monkeypatch):
    monkeypatch.setattr(openvino_runner, "is_installed", lambda: False)


def test_session_runs_and_is_cached():
    session = open_session(MODEL, "a", "cpu", 1)
    assert session.run(VOLUME)[0].shape == (1, 2, 4, 4, 4)
    assert open_session(MODEL, "a", "cpu", 1) is session
    assert open_session(MODEL, "a", "cpu", 2) is not session


def test_cache_forgets_the_oldest():
    first = open_session(MODEL, "0", "cpu", 1)
    for n in range(1, 9):
        open_session(MODEL, str(n), "cpu", 1)
    assert open_session(MODEL, "0", "cpu", 1) is not first


def test_auto_says_what_ran():
    execution = open_session(MODEL, "a", "auto", 1).execution
    assert execution.requested == "auto"
    assert execution.provider == ("OpenVINO" if openvino_runner.is_installed() else "CPUExecutionProvider")
    assert execution.fallbacks == ()


@pytest.mark.parametrize("device", ["cuda", "coreml"])
def test_device_asked_for_by_name_is_strict(device):
    if device in available_devices():
        pytest.skip(f"this onnxruntime has {device}")
    with pytest.raises(ProviderError, match=f"{device!r} was asked for"):
        open_session(MODEL, "a", device, 1)


def test_file_that_is_no_model_is_refused():
    with pytest.raises(ModelError, match="does not take the model"):
        open_session(b"nonsense", "a", "cpu", 1)


def test_wrong_shape_is_a_providers_error():
    with pytest.raises(ProviderError, match="failed on an input of shape"):
        open_session(MODEL, "a", "cpu", 1).run(VOLUME[0])


class FakeRuntime:
    """An onnxruntime in which CUDA is installed and behaves as told."""

    RunOptions = SimpleNamespace
    SessionOptions = staticmethod(lambda: SimpleNamespace(add_session_config_entry=lambda key, value: None))

    def __init__(self, given):
        self.given = given

    def get_available_providers(self):
        return ["CUDAExecutionProvider", "CPUExecutionProvider"]

    def InferenceSession(self, model, options, providers):  # noqa: N802 - the name of the real one
        asked = providers[0][0]
        ran = self.given.get(asked, asked)
        if isinstance(ran, Exception):
            raise ran
        return SimpleNamespace(get_providers=lambda: [ran])


@pytest.mark.parametrize("given", ["CPUExecutionProvider", RuntimeError("no driver")])
@pytest.mark.usefixtures("without_openvino")
def test_provider_that_is_installed_but_does_not_work(monkeypatch, given):
    monkeypatch.setattr(runner, "_share_allocator", lambda: None)
    monkeypatch.setattr(runner, "load_onnxruntime", lambda: FakeRuntime({"CUDAExecutionProvider": given}))
    execution = open_session(MODEL, "a", "auto", 1).execution
    assert execution.provider == "CPUExecutionProvider"
    assert "CUDAExecutionProvider" in execution.fallbacks[0]
    with pytest.raises(ProviderError, match=r"CUDAExecutionProvider|was asked for"):
        open_session(MODEL, "a", "cuda", 1)


def test_provider_that_works_is_preferred_to_the_cpu(monkeypatch):
    monkeypatch.setattr(runner, "load_onnxruntime", lambda: FakeRuntime({}))
    assert open_session(MODEL, "a", "auto", 1).execution.provider == "CUDAExecutionProvider"
    assert open_session(MODEL, "a", "cuda", 1).execution.fallbacks == ()


def test_node_that_a_named_device_leaves_to_the_cpu_is_recorded(monkeypatch):
    class Choosy(FakeRuntime):
        def InferenceSession(self, model, options, providers):  # noqa: N802 - the name of the real one
            if options.entries:
                raise RuntimeError("Shape is assigned to the CPU")
            return super().InferenceSession(model, options, providers)

        def SessionOptions(self):  # noqa: N802 - the name of the real one
            entries = {}
            return SimpleNamespace(entries=entries, add_session_config_entry=entries.__setitem__)

    runtime = Choosy({})
    monkeypatch.setattr(runner, "load_onnxruntime", lambda: runtime)
    execution = open_session(MODEL, "a", "cuda", 1).execution
    assert execution.provider == "CUDAExecutionProvider"
    assert "Shape is assigned to the CPU" in execution.fallbacks[0]


@pytest.mark.usefixtures("without_openvino")
def test_no_provider_at_all_is_an_error(monkeypatch):
    runtime = FakeRuntime({})
    monkeypatch.setattr(runtime, "get_available_providers", list)
    monkeypatch.setattr(runner, "load_onnxruntime", lambda: runtime)
    with pytest.raises(ProviderError, match="none installed"):
        open_session(MODEL, "a", "auto", 1)


CHAIN = mesh_net((1, 2), channels=5)
OTHER = mesh_net((1, 2), activation="Tanh")


def test_own_code_runs_the_networks_that_it_pays_for():
    require_native()
    assert "native" in available_devices()
    execution = open_session(CHAIN, "chain", "auto", 1).execution
    assert (execution.provider, execution.fallbacks) == ("Native", ())
    assert open_session(OTHER, "other", "auto", 1).execution.provider != "Native"
    assert first_choice("auto", CHAIN) == "native"
    assert first_choice("auto", CHAIN, "bfloat16") == first_choice("auto", OTHER) == first_choice("auto")


def test_own_code_can_be_asked_for_by_name():
    require_native()
    assert open_session(CHAIN, "chain", "native", 1).execution.provider == "Native"
    with pytest.raises(ProviderError, match=r"Native cannot run .* choose another device"):
        open_session(unet(3, ["D", "H", "W"]), "u-net", "native", 1)


def test_own_code_that_took_its_process_with_it_is_avoided(monkeypatch):
    require_native()
    monkeypatch.setenv("BRAINCHOP_AVOID_DEVICES", "native")
    execution = open_session(CHAIN, "chain", "auto", 1).execution
    assert execution.provider == ("OpenVINO" if openvino_runner.is_installed() else "CPUExecutionProvider")
    assert execution.fallbacks == ("a process ended by itself while it ran a network on native",)


def test_package_without_compiled_code_does_without(monkeypatch):
    monkeypatch.setattr(native_layers, "is_installed", lambda: False)
    assert "native" not in available_devices()
    assert open_session(CHAIN, "chain", "auto", 1).execution.fallbacks == ()
    with pytest.raises(ProviderError, match="'native' was asked for"):
        open_session(CHAIN, "chain", "native", 1)


@pytest.mark.parametrize(("device", "loaded"), [("openvino", True), ("auto", False), ("cpu", False)])
def test_library_is_loaded_ahead_where_most_networks_need_it(monkeypatch, device, loaded):
    require_openvino()
    require_native()
    calls = []
    monkeypatch.setattr(openvino_runner, "load_openvino", lambda: calls.append(device))
    load_library(device)
    assert bool(calls) == loaded
    monkeypatch.setattr(native_layers, "is_installed", lambda: False)
    load_library("auto")
    assert calls


def test_replacement_on_the_cpu_keeps_the_reason():
    session = open_session(MODEL, "a", "auto", 1)
    replaced = replace_with_cpu(session, MODEL, "a", "out of memory")
    assert replaced.execution.fallbacks[-1] == "out of memory"
    assert open_session(MODEL, "a", "auto", 1) is replaced


def test_openvino_gives_what_onnxruntime_gives():
    require_openvino()
    model, volume = linear_model([1, -2, 3], [0.5, 2, -1]), np.random.default_rng(1).random((1, 1, 5, 6, 7))
    volume = volume.astype(np.float32)
    cpu, fast = (open_session(model, "a", device, 2).run(volume)[0] for device in ("cpu", "openvino"))
    np.testing.assert_allclose(fast, cpu, atol=1e-5)
    # Nothing that could send anything came along.
    assert sys.modules["openvino_telemetry"] is None


def test_openvino_refuses_what_is_no_model():
    require_openvino()
    with pytest.raises(ProviderError, match="cannot run the model"):
        open_session(b"nonsense", "a", "openvino", 1)


@pytest.mark.parametrize("device", ["cpu", "auto"])
def test_precision_that_the_provider_has_not_is_recorded(device, monkeypatch):
    monkeypatch.setattr(openvino_runner, "is_installed", lambda: False)
    execution = open_session(MODEL, "a", device, 1, "bfloat16").execution
    assert execution.precision == "float32"
    assert "float32 here, not bfloat16" in execution.fallbacks[-1]


def test_device_whose_process_ended_is_left_out(monkeypatch):
    monkeypatch.setattr(module, "available_devices", lambda: ("cpu", "openvino"))
    monkeypatch.setenv(module.AVOID_VARIABLE, "openvino,cuda")
    execution = open_session(MODEL, "a", "auto", 1).execution
    assert execution.provider == "CPUExecutionProvider"
    assert "ended by itself while it ran a network on openvino" in execution.fallbacks[0]


def test_telemetry_is_off_before_the_import():
    code = (
        "from brainchop_pipe.inference import onnxruntime_runner as runner; import os, sys;"
        "assert 'onnxruntime' not in sys.modules;"
        "runner.load_onnxruntime(); print(os.environ['ORT_DISABLE_TELEMETRY'])"
    )
    environment = {k: v for k, v in os.environ.items() if k != "ORT_DISABLE_TELEMETRY"}
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment)
    assert result.stdout.strip() == "1", result.stderr


def test_warns_where_onnxruntime_was_there_first(monkeypatch, caplog):
    pytest.importorskip("onnxruntime")
    monkeypatch.delenv("ORT_DISABLE_TELEMETRY", raising=False)
    runner.load_onnxruntime.cache_clear()
    runner.load_onnxruntime()
    assert "telemetry" in caplog.text
    monkeypatch.setenv("ORT_DISABLE_TELEMETRY", "1")


@pytest.fixture
def installed(monkeypatch):
    """Pretend that onnxruntime has these devices, and that no variable names GPUs."""
    for variable in ("CUDA_VISIBLE_DEVICES", "HIP_VISIBLE_DEVICES", "ROCR_VISIBLE_DEVICES"):
        monkeypatch.delenv(variable, raising=False)
    monkeypatch.setattr(module, "_nvidia_gpus", lambda: 2)
    monkeypatch.setattr(module, "_amd_gpus", lambda: 0)
    return lambda *devices: monkeypatch.setattr(module, "available_devices", lambda: devices)


@pytest.mark.parametrize(
    ("devices", "device", "gpus"),
    [
        (("cpu",), "auto", ()),
        (("cpu", "cuda"), "auto", ("0", "1")),
        (("cpu", "cuda"), "cpu", ()),
        (("cpu", "openvino"), "openvino", ()),
        (("cpu",), "cuda", ("0", "1")),
    ],
)
def test_gpus_are_those_that_a_device_means(installed, devices, device, gpus):
    installed(*devices)
    assert gpus_of(device) == gpus


def test_gpus_are_those_that_may_be_seen(installed, monkeypatch):
    installed("cpu", "cuda")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "3, GPU-abc")
    assert gpus_of("auto") == ("3", "GPU-abc")
    for none in ("", "-1", "NoDevFiles"):
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", none)
        assert gpus_of("auto") == ()


def test_gpu_by_name_is_taken_for_there(installed, monkeypatch):
    installed("cpu", "cuda")
    monkeypatch.setattr(module, "_nvidia_gpus", lambda: 0)
    assert gpus_of("auto") == ()
    assert gpus_of("cuda") == ("0",)


def test_kernel_counts_gpus(tmp_path, monkeypatch):
    for place in ("proc/driver/nvidia/gpus/0000:01:00.0", "nodes/0", "nodes/1"):
        (tmp_path / place).mkdir(parents=True)
    (tmp_path / "nodes/0/gpu_id").write_text("0\n")
    (tmp_path / "nodes/1/gpu_id").write_text("4711\n")
    places = {"gpus": tmp_path / "proc/driver/nvidia/gpus", "nodes": tmp_path / "nodes"}
    monkeypatch.setattr(module, "Path", lambda path: places[path.rpartition("/")[2]])
    assert module._nvidia_gpus() == 1
    assert module._amd_gpus() == 1
