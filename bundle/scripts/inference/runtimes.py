# SPDX-License-Identifier: Apache-2.0
"""What runs a network: PyTorch, TorchScript, ONNX Runtime or OpenVINO, behind one call."""

from __future__ import annotations

import contextlib
import importlib.util
import logging
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from torch import nn

from ..core.errors import InputError
from ..training.weights import load_weights

logger = logging.getLogger(__name__)
RUNTIMES = ("auto", "torch", "openvino", "onnxruntime")
PRECISIONS = ("auto", "float32", "bfloat16")
EXPORTS = {".ts": "TorchScript", ".onnx": "ONNX", ".xml": "OpenVINO IR"}


def quiet_openvino() -> Any:
    """Import OpenVINO without its telemetry, which would report conversions to its makers unless a user opted out by hand."""
    absent = "openvino_telemetry" not in sys.modules
    if absent:
        sys.modules["openvino_telemetry"] = None  # type: ignore[assignment]  # reads as not installed, which OpenVINO allows for
    try:
        import openvino
    finally:
        if absent:
            del sys.modules["openvino_telemetry"]
    return openvino


class Runner(Protocol):
    """A network that can be asked."""

    name: str

    def __call__(self, batch: torch.Tensor) -> torch.Tensor:
        """Logits (B, 2, *size) of a batch (B, C, *size), float32: background and fracture; perhaps a third, of vertebra."""


class TorchRunner:
    """A PyTorch or TorchScript network.

    Args:
        network: network with its weights.
        device: where it runs.
        amp: half precision on a GPU, bfloat16 on a CPU.
        compiled: whether ``torch.compile`` is used.
    """

    def __init__(self, network: nn.Module, device: torch.device, amp: bool = False, compiled: bool = False) -> None:
        self.device, self.amp = device, amp
        self.network = network.to(device).eval()
        if not isinstance(network, torch.jit.ScriptModule):
            self.network = self.network.to(memory_format=torch.channels_last) if _is_2d(network) else self.network
            if compiled:
                self.network = torch.compile(self.network)  # type: ignore[assignment]
        self.dtype = torch.float16 if device.type == "cuda" else torch.bfloat16
        self.name = f"PyTorch {torch.__version__} on {device}{', ' + str(self.dtype).split('.')[-1] if amp else ''}"

    @torch.inference_mode()
    def __call__(self, batch: torch.Tensor) -> torch.Tensor:
        """Run the network."""
        batch = batch.to(self.device, non_blocking=True)
        if batch.ndim == 4:
            batch = batch.contiguous(memory_format=torch.channels_last)
        with torch.autocast(self.device.type, dtype=self.dtype) if self.amp else contextlib.nullcontext():
            return self.network(batch).float().cpu()


def _is_2d(network: nn.Module) -> bool:
    return any(isinstance(m, nn.Conv2d) for m in network.modules())


class OpenVINORunner:
    """An OpenVINO model on the CPU.

    Args:
        model: path of an ONNX or IR file, or a PyTorch network.
        shape: channels and size of a window, for a PyTorch network.
        precision: "float32", "bfloat16" or "auto" (what OpenVINO takes on this CPU).
    """

    def __init__(self, model: str | Path | nn.Module, shape: Sequence[int], precision: str = "float32") -> None:
        openvino = quiet_openvino()
        if isinstance(model, nn.Module):
            with torch.no_grad():
                converted = openvino.convert_model(
                    model.float().cpu().eval(), example_input=torch.zeros(2, *shape), input=[-1, *shape]
                )
        else:
            converted = openvino.Core().read_model(str(model))
        options: dict[str, Any] = {"PERFORMANCE_HINT": "LATENCY", "INFERENCE_NUM_THREADS": torch.get_num_threads()}
        if precision != "auto":
            options["INFERENCE_PRECISION_HINT"] = {"float32": "f32", "bfloat16": "bf16"}[precision]
        self.compiled = openvino.Core().compile_model(converted, "CPU", options)
        self.name = f"OpenVINO {openvino.__version__.split('-')[0]} on cpu, {precision}"

    def __call__(self, batch: torch.Tensor) -> torch.Tensor:
        """Run the model."""
        out = self.compiled(np.ascontiguousarray(batch.numpy()))[0]
        return torch.from_numpy(np.array(out, np.float32))


class OnnxRunner:
    """An ONNX file in ONNX Runtime on the CPU."""

    def __init__(self, path: str | Path) -> None:
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = torch.get_num_threads()
        self.session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
        self.name = f"ONNX Runtime {onnxruntime.__version__} on cpu"

    def __call__(self, batch: torch.Tensor) -> torch.Tensor:
        """Run the model."""
        name = self.session.get_inputs()[0].name
        return torch.from_numpy(self.session.run(None, {name: np.ascontiguousarray(batch.numpy())})[0])


def available(runtime: str) -> bool:
    """Whether the library of a runtime is installed."""
    return importlib.util.find_spec(runtime) is not None


def _need(runtime: str, why: str) -> None:
    if not available(runtime):
        raise InputError(
            f"{why}: {runtime} is not installed; pip install {runtime}, or set `runtime` to torch and give a .pt file"
        )


def load_runner(
    network: nn.Module,
    checkpoint: str,
    shape: Sequence[int],
    device: torch.device | str = "cpu",
    runtime: str = "auto",
    precision: str = "auto",
    amp: bool = False,
    compiled: bool = False,
) -> Runner:
    """Make a runner of a checkpoint.

    Args:
        network: network of the config; takes the weights of a ``.pt`` file.
        checkpoint: ``.pt`` (weights), ``.ts`` (TorchScript), ``.onnx`` or ``.xml`` (OpenVINO).
        shape: channels and size of a window.
        device: for PyTorch.
        runtime: "auto" takes OpenVINO on a CPU where it is installed; else "torch", "openvino" or "onnxruntime".
        precision: of OpenVINO: "float32", "bfloat16", or "auto" for float32.
        amp: half precision in PyTorch.
        compiled: ``torch.compile``.

    Raises:
        InputError: for a missing or foreign checkpoint, a missing library, a value out of range.
    """
    device = torch.device(device)
    if runtime not in RUNTIMES:
        raise InputError(f"runtime={runtime!r}: give one of {', '.join(RUNTIMES)}")
    if precision not in PRECISIONS:
        raise InputError(f"precision={precision!r}: give one of {', '.join(PRECISIONS)}")
    file = Path(checkpoint)
    kind = file.suffix.lower()
    precise = "float32" if precision == "auto" else precision
    if kind in EXPORTS and not file.is_file():
        raise InputError(f"{file}: no such {EXPORTS[kind]} file; export one or set `checkpoint` to another")
    try:
        if kind == ".xml" or (kind == ".onnx" and runtime in ("auto", "openvino") and available("openvino")):
            _need("openvino", str(file))
            return _tried(OpenVINORunner(file, shape, precise), shape, file)
        if kind == ".onnx":
            _need("onnxruntime", str(file))
            return _tried(OnnxRunner(file), shape, file)
        if kind == ".ts":
            return _tried(TorchRunner(torch.jit.load(str(file), map_location=device), device, amp), shape, file)
    except InputError:
        raise
    except Exception as error:
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise InputError(f"{file}: cannot be run ({reason[:160]}); export it again for this version") from None
    load_weights(network, checkpoint, device)
    chosen = runtime
    if runtime == "auto":
        chosen = "openvino" if device.type == "cpu" and not amp and not compiled and available("openvino") else "torch"
    if chosen == "onnxruntime":
        raise InputError(
            f"runtime=onnxruntime: {file} is no ONNX file; export one (python -m scripts.inference export)"
        )
    if chosen == "openvino":
        _need("openvino", "runtime=openvino")
        return _tried(OpenVINORunner(network, shape, precise), shape, file)
    return _tried(TorchRunner(network, device, amp, compiled), shape, file)


def _tried(runner: Runner, shape: Sequence[int], file: Path) -> Runner:
    """Ask the runner once, so that a network for other channels or sizes is refused before any scan is read."""
    try:
        out = runner(torch.zeros(1, *shape))
    except Exception as error:
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise InputError(
            f"{file}: does not take {shape[0]} channel(s) of {' x '.join(map(str, shape[1:]))} ({reason[:160]}); "
            "set patch_size, neighbours and network_def as in its training"
        ) from None
    if out.ndim != len(shape) + 1 or tuple(out.shape[2:]) != tuple(shape[1:]) or out.shape[1] not in (2, 3):
        raise InputError(
            f"{file}: gives {tuple(out.shape)} for one window of {tuple(shape)}; a network is needed whose outputs are background, "
            "fracture and perhaps vertebra"
        )
    return runner
