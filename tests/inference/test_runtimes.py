# SPDX-License-Identifier: Apache-2.0
"""Exports equal PyTorch and replace a checkpoint; unusable files are one line."""

from __future__ import annotations

import csv
import os
import signal
import subprocess
import sys
from functools import cache

import pytest
import torch
from conftest import BUNDLE, LEAN, python_path
from scripts.core.errors import InputError
from scripts.inference import runtimes
from scripts.inference.cohort import Segmenter
from scripts.inference.export import export
from scripts.inference.runtimes import load_runner
from scripts.networks import MSFFNet
from scripts.networks.outputs import AUXILIARY
from scripts.simulation.phantom import generator
from scripts.training.weights import load_weights

SMALL = {"features": [4, 4, 8, 8, 8], "fusion_channels": 8, "aspp_rates": [1, 2, 4, 8]}


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    """Small trained network and its overlay."""
    root = tmp_path_factory.mktemp("export")
    torch.manual_seed(0)
    network = MSFFNet(2, 1, 2, **SMALL)
    optimizer = torch.optim.Adam(network.parameters(), lr=0.01)
    for _ in range(6):
        image = torch.rand(4, 1, 64, 64)
        optimizer.zero_grad()
        torch.nn.functional.cross_entropy(network(image), (image[:, 0] > 0.6).long()).backward()
        optimizer.step()
    torch.save(network.state_dict(), root / "model.pt")
    lines = ["patch_size: [64, 96]", *(f'"network_def::{k}": {v}' for k, v in SMALL.items())]
    (root / "small.yaml").write_text("\n".join(lines) + "\n")
    return root


@pytest.fixture(scope="module", autouse=True)
def one_phantom():
    """Make the phantom of the exports once for all of them."""
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(generator, "make_phantom", cache(generator.make_phantom))
        yield


def network() -> MSFFNet:
    return MSFFNet(2, 1, 2, auxiliary_outputs=["vertebra"], **SMALL)


def stored(folder, auxiliary, trained, spatial_dims=2) -> str:
    """Weights of a network with outputs that were not trained."""
    torch.manual_seed(0)
    weights = MSFFNet(spatial_dims, 1, 2, auxiliary_outputs=auxiliary, **SMALL)
    for parameter in weights.decoder.head.parameters():
        torch.nn.init.normal_(parameter[:trained])
    torch.save(weights.state_dict(), folder / "outputs.pt")
    return str(folder / "outputs.pt")


@pytest.mark.parametrize("name", ["torchscript", "openvino", pytest.param("onnx", marks=pytest.mark.slow)])
def test_exports_equal_pytorch(checkpoint, name, tmp_path):
    for package in {"torchscript": [], "openvino": ["openvino"], "onnx": ["onnxscript", "onnxruntime"]}[name]:
        pytest.importorskip(package, reason=f"{package} is an extra")
    export(str(checkpoint / "model.pt"), out=str(tmp_path), formats=name, config=str(checkpoint / "small.yaml"))
    (row,) = csv.DictReader((tmp_path / "exports.csv").open())
    assert float(row["probability_random"]) < 1e-4
    assert float(row["probability_phantom"]) < 1e-4
    reference = load_runner(network(), str(checkpoint / "model.pt"), (1, 64, 96), runtime="torch", precision="float32")
    runner = load_runner(network(), str(tmp_path / row["file"]), (1, 64, 96), precision="float32")
    batch = torch.rand(3, 1, 64, 96)
    torch.testing.assert_close(runner(batch), reference(batch), atol=1e-3, rtol=1e-3)
    if name == "onnx":
        other = torch.rand(1, 1, 128, 80)
        torch.testing.assert_close(runner(other), reference(other), atol=1e-3, rtol=1e-3)


def test_openvino_is_the_default_on_a_cpu(checkpoint, monkeypatch):
    pytest.importorskip("openvino", reason="openvino is an extra")
    runner = load_runner(network(), str(checkpoint / "model.pt"), (1, 64, 96), precision="float32")
    assert runner.name.startswith("OpenVINO")
    plain = load_runner(network(), str(checkpoint / "model.pt"), (1, 64, 96), runtime="torch", precision="float32")
    batch = torch.rand(2, 1, 64, 96)
    torch.testing.assert_close(runner(batch), plain(batch), atol=1e-3, rtol=1e-3)
    monkeypatch.setattr(runtimes, "available", lambda name: False)
    assert load_runner(network(), str(checkpoint / "model.pt"), (1, 64, 96)).name.startswith("PyTorch")


def test_half_precision_on_a_cpu_is_close(checkpoint):
    exact = load_runner(network(), str(checkpoint / "model.pt"), (1, 64, 96), runtime="torch", precision="float32")
    half = load_runner(network(), str(checkpoint / "model.pt"), (1, 64, 96), runtime="torch", amp=True)
    batch = torch.rand(2, 1, 64, 96)
    assert (half(batch).softmax(1) - exact(batch).softmax(1)).abs().max() < 0.05


@pytest.mark.parametrize(
    ("name", "content", "word"),
    [
        ("gone.onnx", None, "no such ONNX"),
        ("gone.pt", None, "no such checkpoint"),
        ("bad.ts", b"no archive", "cannot be run"),
        ("bad.pt", b"no archive", "cannot be read"),
    ],
)
def test_unusable_files_are_named(tmp_path, name, content, word):
    if content is not None:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(InputError, match=word) as caught:
        load_runner(network(), str(tmp_path / name), (1, 64, 96))
    assert str(tmp_path / name) in str(caught.value)


def test_missing_library_is_named_with_the_remedy(checkpoint, monkeypatch):
    monkeypatch.setattr(runtimes, "available", lambda name: False)
    with pytest.raises(InputError, match="pip install openvino"):
        load_runner(network(), str(checkpoint / "model.pt"), (1, 64, 96), runtime="openvino")


def report_capabilities(monkeypatch, capabilities: dict[str, bool]) -> None:
    """Instructions of a CPU as PyTorch reports them; none before PyTorch had a function for them."""
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: capabilities, raising=False)
    for name in ("_is_amx_tile_supported", "_is_avx512_bf16_supported"):
        monkeypatch.delattr(torch.cpu, name, raising=False)


def test_folder_of_results_has_the_precision_of_its_cpu(checkpoint, tmp_path, monkeypatch):
    """The setting is "auto" on every machine, and results of two precisions must not be mixed."""
    found = []
    for capabilities in ({"avx512_bf16": True}, {"avx2": True}):
        report_capabilities(monkeypatch, capabilities)
        path = str(checkpoint / "model.pt")
        segmenter = Segmenter(
            network(), path, str(tmp_path), str(tmp_path / "out"), runtime={"runtime": "torch", "precision": "auto"}
        )
        found.append(segmenter._settings()["runtime"]["precision"])
    assert found == ["bfloat16", "float32"]


@pytest.mark.parametrize("file", ["model.pt", "model.ts"])
def test_pytorch_computes_in_bfloat16_on_a_cpu(checkpoint, tmp_path, file, monkeypatch, caplog):
    path = checkpoint / "model.pt"
    if file == "model.ts":
        export(str(path), out=str(tmp_path), formats="torchscript", config=str(checkpoint / "small.yaml"))
        path = tmp_path / file
    batch = torch.rand(3, 1, 64, 96)
    full, half = (load_runner(network(), str(path), (1, 64, 96), runtime="torch", precision=p) for p in ("float32", "bfloat16"))
    assert "bfloat16" in half.name
    assert "bfloat16" not in full.name
    logits, rounded = full(batch), half(batch)
    assert rounded.dtype == torch.float32
    assert not torch.equal(logits, rounded)
    torch.testing.assert_close(logits.sigmoid(), rounded.sigmoid(), atol=0.05, rtol=0)
    for capabilities, lines in (
        ({"avx512_bf16": True, "amx_bf16": False}, 0),
        ({"avx512_bf16": False, "amx_bf16": False}, 1),
        ({}, 0),
    ):
        report_capabilities(monkeypatch, capabilities)
        caplog.clear()
        load_runner(network(), str(path), (1, 64, 96), runtime="torch", precision="bfloat16")
        assert sum("slower than precision=float32" in r.getMessage() for r in caplog.records) == lines


@pytest.mark.parametrize("runtime", ["torch", "openvino"])
@pytest.mark.parametrize(
    ("capabilities", "precision"),
    [({"avx512_bf16": True}, "bfloat16"), ({"amx_bf16": True}, "bfloat16"), ({"avx2": True}, "float32"), ({}, "float32")],
    ids=str,
)
def test_precision_follows_the_instructions_of_the_cpu(checkpoint, monkeypatch, runtime, capabilities, precision):
    if runtime == "openvino":
        pytest.importorskip("openvino")
    report_capabilities(monkeypatch, capabilities)
    runner = load_runner(network(), str(checkpoint / "model.pt"), (1, 64, 96), runtime=runtime)
    assert ("bfloat16" in runner.name) == (precision == "bfloat16")


@pytest.mark.parametrize(
    ("weights", "trained", "runtime"),
    [(w, t, "torch") for w, t in ((2, 2), (3, 2), (3, 3), (4, 2), (4, 3), (4, 4))] + [(4, 3, "openvino")],
)
def test_outputs_that_were_not_trained_are_left_out(tmp_path, weights, trained, runtime):
    """Weights that lack an output, or have it without training, have the outputs before it; those do not change."""
    if runtime != "torch":
        pytest.importorskip(runtime, reason="an extra")
    path = stored(tmp_path, AUXILIARY[: weights - 2], trained)
    runner = load_runner(
        MSFFNet(2, 1, 2, auxiliary_outputs=AUXILIARY, **SMALL), path, (1, 64, 96), runtime=runtime, precision="float32"
    )
    batch = torch.rand(2, 1, 64, 96)
    plain = load_weights(MSFFNet(2, 1, 2, auxiliary_outputs=AUXILIARY[: weights - 2], **SMALL), path).eval()
    assert runner.num_outputs == trained
    torch.testing.assert_close(runner(batch), plain(batch)[:, :trained].detach(), atol=1e-3, rtol=1e-3)


def test_one_network_loads_weights_of_fewer_and_of_all_outputs(tmp_path):
    model = MSFFNet(2, 1, 2, auxiliary_outputs=AUXILIARY, **SMALL)
    for number in (3, 4, 2):
        path = stored(tmp_path, AUXILIARY[: number - 2], number)
        assert load_runner(model, path, (1, 64, 96), runtime="torch").num_outputs == number


def test_outputs_in_half_precision_and_3d(tmp_path):
    path = stored(tmp_path, AUXILIARY, 3)
    runner = load_runner(MSFFNet(2, 1, 2, auxiliary_outputs=AUXILIARY, **SMALL), path, (1, 64, 96), runtime="torch", amp=True)
    assert runner.num_outputs == 3
    path = stored(tmp_path, AUXILIARY, 3, spatial_dims=3)
    runner = load_runner(MSFFNet(3, 1, 2, auxiliary_outputs=AUXILIARY, **SMALL), path, (1, 32, 32, 32), runtime="torch")
    assert runner(torch.rand(1, 1, 32, 32, 32)).shape == (1, 3, 32, 32, 32)


@pytest.mark.parametrize(("weights", "trained"), [(2, 2), (4, 3), (4, 4)])
def test_exports_have_the_trained_outputs(tmp_path, weights, trained):
    path = stored(tmp_path, AUXILIARY[: weights - 2], trained)
    lines = ["patch_size: [32, 48]", "auxiliary_outputs: [vertebra, body]", *(f'"network_def::{k}": {v}' for k, v in SMALL.items())]
    (tmp_path / "all.yaml").write_text("\n".join(lines) + "\n")
    export(path, out=str(tmp_path), formats="torchscript", config=str(tmp_path / "all.yaml"))
    assert float(next(csv.DictReader((tmp_path / "exports.csv").open()))["logits_random"]) < 1e-3
    assert load_runner(network(), str(tmp_path / "outputs.ts"), (1, 32, 48)).num_outputs == trained


@pytest.mark.parametrize("number", [1, 5])
def test_a_number_of_outputs_without_names_is_rejected(tmp_path, number):
    other = torch.nn.Conv2d(1, number, 3, padding=1)
    torch.save(other.state_dict(), tmp_path / "net.pt")
    with pytest.raises(InputError, match=rf"outputs \(1, {number}, 32, 32\) for one window.*optionally vertebra, body"):
        load_runner(other, str(tmp_path / "net.pt"), (1, 32, 32), runtime="torch")


def test_unknown_format_is_named(checkpoint, tmp_path):
    with pytest.raises(InputError, match="formats='caffe'"):
        export(str(checkpoint / "model.pt"), out=str(tmp_path), formats="caffe")


def test_openvino_sends_no_telemetry():
    """In a process of its own, as another test may have imported OpenVINO already."""
    pytest.importorskip("openvino", reason="openvino is an extra")
    program = (
        f"{LEAN}; from scripts.inference.runtimes import import_openvino; o = import_openvino(); import sys; "
        "import openvino.tools.ovc.telemetry_utils as t; assert t.tm.__name__.endswith('telemetry_stub'), t.tm"
    )
    subprocess.run([sys.executable, "-c", program], check=True, env={**os.environ, "PYTHONPATH": python_path(BUNDLE)})


@pytest.mark.skipif(not hasattr(signal, "SIGCHLD"), reason="signals of POSIX")
def test_signals_survive_openvino_models_that_have_ended():
    """In a process of its own, which a second OpenVINO core would end by a segmentation fault."""
    pytest.importorskip("openvino", reason="openvino is an extra")
    program = f"""
import faulthandler, gc, os, signal, torch
{LEAN}
from scripts.inference.runtimes import OpenVINORunner
faulthandler.enable()  # handlers have a stack of their own
signal.signal(signal.SIGCHLD, lambda *_: print("handled", flush=True))
network = torch.nn.Conv2d(1, 2, 3, padding=1)
runners = [OpenVINORunner(network, (1, 16, 16)) for _ in range(3)]
for runner in runners:
    runner(torch.zeros(1, 1, 16, 16))
del runner
while runners:
    runners.pop(0)
    gc.collect()
    os.kill(os.getpid(), signal.SIGCHLD)
"""
    environment = {**os.environ, "PYTHONPATH": python_path(BUNDLE)}
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", program], capture_output=True, text=True, env=environment, timeout=300
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("handled") == 3


def test_batches_padded_to_one_size_have_the_same_logits():
    torch.manual_seed(0)
    runner = runtimes.TorchRunner(network(), torch.device("cpu"), batch_size=4)
    batch = torch.rand(3, 1, 32, 48)
    assert runner.batch_size == 1  # a CPU computes no window in vain
    expected = runner(batch)
    runner.batch_size = 4  # as on a GPU
    seen = []
    runner.network.register_forward_pre_hook(lambda _, inputs: seen.append(len(inputs[0])))
    found = runner(batch)
    assert seen == [4]
    assert found.shape == expected.shape
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)


def test_a_full_gpu_is_one_line_before_any_scan(checkpoint, tmp_path, monkeypatch):
    class Full(torch.nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            raise torch.cuda.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")

    monkeypatch.setattr("scripts.inference.runtimes.load_weights", lambda *args: None)
    made = Segmenter(Full(), str(checkpoint), "scans", str(tmp_path), window={"size": (32, 32)}, runtime={"runtime": "torch"})
    with pytest.raises(InputError, match=r"no memory for a batch of windows \(CUDA out of memory.*--sw_batch_size.*--device cpu$"):
        made.pipeline()
