# SPDX-License-Identifier: Apache-2.0
"""Inference backends: PyTorch, TorchScript, ONNX Runtime and OpenVINO behind one call."""

from __future__ import annotations

import contextlib
import functools
import importlib.util
import logging
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from torch import nn

from ..core.cpu_instructions import computes_bfloat16
from ..core.errors import InputError, first_line
from ..core.optional_packages import absent
from ..networks.outputs import AUXILIARY, NUM_CLASSES, OUTPUTS, UNTRAINED_LOGIT
from ..networks.weights_checksum import check_file
from ..training.weights import load_weights

logger = logging.getLogger(__name__)

RUNTIMES = ("auto", "torch", "openvino", "onnxruntime")
PRECISIONS = ("auto", "float32", "bfloat16")
EXPORTS = {".ts": "TorchScript", ".onnx": "ONNX", ".xml": "OpenVINO IR"}
MAX_REASON = 160  # characters of a library's message


def import_openvino() -> Any:
    """Import OpenVINO without its telemetry, which reports conversions to its makers unless a user opts out by hand."""
    with absent("openvino_telemetry"):
        import openvino
    return openvino


@functools.cache
def openvino_core() -> Any:
    """The one OpenVINO core of this process, which lives as long as this.

    On CPUs with AVX-512 its CPU plugin replaces the stack of signal handlers. Of two cores that end in the order of their making,
    the second leaves a stack that is unmapped, and the next signal (Ctrl-C, the end of a child process) is a segmentation fault.
    """
    return import_openvino().Core()


class Runner(Protocol):
    """Network on a backend; its logits are on its device."""

    name: str
    num_outputs: int
    device: torch.device

    def __call__(self, batch: torch.Tensor) -> torch.Tensor:
        """Logits (B, num_outputs, *size), float32, of a batch (B, C, *size); the first of ``outputs.OUTPUTS``."""


class TrainedOutputs:
    """Runner without the last outputs of its network, which were not trained.

    Args:
        runner: network on a backend.
        num_outputs: number of outputs that were trained.
    """

    def __init__(self, runner: Runner, num_outputs: int) -> None:
        self.runner, self.num_outputs, self.name, self.device = (
            runner,
            num_outputs,
            runner.name,
            getattr(runner, "device", torch.device("cpu")),
        )

    def __call__(self, batch: torch.Tensor) -> torch.Tensor:
        """Run the network."""
        return self.runner(batch)[:, : self.num_outputs]


class TorchRunner:
    """PyTorch or TorchScript network.

    Args:
        network: network with its weights.
        device: device of the network.
        amp: half precision on a GPU, bfloat16 on a CPU.
        compiled: use ``torch.compile``.
        batch_size: smaller batches are padded to this size on a GPU, where every size costs seconds the first time.
    """

    num_outputs = 0  # set by the smoke test

    def __init__(
        self, network: nn.Module, device: torch.device, amp: bool = False, compiled: bool = False, batch_size: int = 1
    ) -> None:
        self.device, self.amp = device, amp
        self.batch_size = 1 if device.type == "cpu" else batch_size
        self.network = network.to(device).eval()
        if not isinstance(network, torch.jit.ScriptModule):
            if any(isinstance(m, nn.Conv2d) for m in network.modules()):
                self.network = self.network.to(memory_format=torch.channels_last)
            if compiled:
                self.network = torch.compile(self.network)  # type: ignore[assignment]
        self.dtype = torch.float16 if device.type == "cuda" else torch.bfloat16
        self.name = f"PyTorch {torch.__version__} on {device}{', ' + str(self.dtype).split('.')[-1] if amp else ''}"

    @torch.inference_mode()
    def __call__(self, batch: torch.Tensor) -> torch.Tensor:
        """Run the network."""
        batch, count = batch.to(self.device, non_blocking=True), len(batch)
        if count < self.batch_size:
            batch = torch.cat([batch, batch[-1:].expand(self.batch_size - count, *batch.shape[1:])])
        if batch.ndim == 4:
            batch = batch.contiguous(memory_format=torch.channels_last)
        with torch.autocast(self.device.type, dtype=self.dtype) if self.amp else contextlib.nullcontext():
            return self.network(batch)[:count].float()


class OpenVINORunner:
    """OpenVINO model on the CPU.

    Args:
        model: path of an ONNX or IR file, or a PyTorch network.
        shape: channels and size of a window, for a PyTorch network.
        precision: "float32" or "bfloat16".
    """

    num_outputs = 0  # set by the smoke test
    device = torch.device("cpu")

    def __init__(self, model: str | Path | nn.Module, shape: Sequence[int], precision: str = "float32") -> None:
        openvino = import_openvino()
        if isinstance(model, nn.Module):
            with torch.no_grad(), warnings.catch_warnings():
                warnings.simplefilter("ignore", torch.jit.TracerWarning)  # of sizes, which are constant in a window
                example = torch.zeros(2, *shape)
                # OpenVINO's own trace repeats the network to compare it with itself, which takes more time than the conversion.
                traced = torch.jit.trace(model.float().cpu().eval(), example, strict=False, check_trace=False)
                converted = openvino.convert_model(traced, example_input=example, input=[-1, *shape])
        else:
            converted = openvino_core().read_model(str(model))
        options: dict[str, Any] = {"PERFORMANCE_HINT": "LATENCY", "INFERENCE_NUM_THREADS": torch.get_num_threads()}
        options["INFERENCE_PRECISION_HINT"] = {"float32": "f32", "bfloat16": "bf16"}[precision]
        self.compiled = openvino_core().compile_model(converted, "CPU", options)
        self.name = f"OpenVINO {openvino.__version__.split('-')[0]} on cpu, {precision}"

    def __call__(self, batch: torch.Tensor) -> torch.Tensor:
        """Run the model."""
        out = self.compiled(np.ascontiguousarray(batch.cpu().numpy()))[0]
        return torch.from_numpy(np.array(out, np.float32))


class OnnxRunner:
    """ONNX file in ONNX Runtime on the CPU."""

    num_outputs = 0  # set by the smoke test
    device = torch.device("cpu")

    def __init__(self, path: str | Path) -> None:
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = torch.get_num_threads()
        self.session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
        self.name = f"ONNX Runtime {onnxruntime.__version__} on cpu"

    def __call__(self, batch: torch.Tensor) -> torch.Tensor:
        """Run the model."""
        name = self.session.get_inputs()[0].name
        return torch.from_numpy(self.session.run(None, {name: np.ascontiguousarray(batch.cpu().numpy())})[0])


def available(runtime: str) -> bool:
    """True when the library of a backend is installed."""
    return importlib.util.find_spec(runtime) is not None


def _require(runtime: str, reason: str) -> None:
    if not available(runtime):
        raise InputError(
            f"{reason}: {runtime} is not installed; pip install {runtime}, or set `runtime` to torch and `checkpoint` to a .pt file"
        )


def resolve_precision(precision: str, device: torch.device | str = "cpu") -> str:
    """Precision on a CPU: that of "auto" is bfloat16 where the CPU has instructions for it; "float32" for other devices.

    Raises:
        InputError: for another value.
    """
    if precision not in PRECISIONS:
        raise InputError(f"precision={precision!r}: must be one of {', '.join(PRECISIONS)}")
    if precision != "auto":
        return precision
    return "bfloat16" if torch.device(device).type == "cpu" and computes_bfloat16() else "float32"


def load_runner(
    network: nn.Module,
    checkpoint: str,
    shape: Sequence[int],
    device: torch.device | str = "cpu",
    runtime: str = "auto",
    precision: str = "auto",
    amp: bool = False,
    compiled: bool = False,
    batch_size: int = 1,
) -> Runner:
    """Load a checkpoint into a backend, which has the outputs that were trained, see ``outputs.OUTPUTS``.

    Args:
        network: network of the config; receives the weights of a ``.pt`` file.
        checkpoint: ``.pt`` (weights), ``.ts`` (TorchScript), ``.onnx`` or ``.xml`` (OpenVINO).
        shape: channels and size of a window.
        device: device for PyTorch.
        runtime: "auto" chooses OpenVINO on a CPU where it is installed; else "torch", "openvino" or "onnxruntime".
        precision: precision of OpenVINO, and of PyTorch on a CPU: "float32", "bfloat16", or "auto" for bfloat16 on CPUs with
            instructions for it and float32 elsewhere; ONNX Runtime computes in that of the file.
        amp: half precision in PyTorch: float16 on a GPU, bfloat16 on a CPU.
        compiled: use ``torch.compile``.
        batch_size: windows per batch; on a GPU all batches have this size.

    Raises:
        InputError: for a missing checkpoint, one of another network, a missing library, or a value out of range.
    """
    device, file = torch.device(device), Path(checkpoint)
    if runtime not in RUNTIMES:
        raise InputError(f"runtime={runtime!r}: must be one of {', '.join(RUNTIMES)}")
    precision = resolve_precision(precision, device)
    if file.suffix.lower() in EXPORTS:
        return _smoke_test(_load_export(file, shape, device, runtime, precision, amp, batch_size), shape, file)
    load_weights(network, checkpoint, device)
    if runtime == "auto":
        fast = device.type == "cpu" and not amp and not compiled and available("openvino")
        runtime = "openvino" if fast else "torch"
    amp = _half_precision(device, precision, amp)
    if runtime == "onnxruntime":
        raise InputError(f"runtime=onnxruntime: {file} is not an ONNX file; export one (python -m scripts.inference export)")
    if runtime == "openvino":
        _require("openvino", "runtime=openvino")
    use_openvino = runtime == "openvino"
    runner: Runner
    if use_openvino:
        runner = OpenVINORunner(network, shape, precision)
    else:
        runner = TorchRunner(network, device, amp, compiled, batch_size)
    return _smoke_test(runner, shape, file)


def _half_precision(device: torch.device, precision: str, amp: bool) -> bool:
    """True where PyTorch computes in half precision; one line in the log where a CPU has no instructions for it."""
    half = amp or (device.type == "cpu" and precision == "bfloat16")
    if half and device.type == "cpu" and computes_bfloat16() is False:
        logger.warning("bfloat16: this CPU computes it without AMX or AVX512-BF16, which is slower than precision=float32")
    return half


def _load_export(
    file: Path, shape: Sequence[int], device: torch.device, runtime: str, precision: str, amp: bool, batch_size: int
) -> Runner:
    """Backend of an exported file."""
    kind = file.suffix.lower()
    if not file.is_file():
        raise InputError(f"{file}: no such {EXPORTS[kind]} file; export one or set `checkpoint` to another")
    if (note := check_file(file)) is not None:
        logger.warning("%s", note)
    openvino = kind == ".xml" or (kind == ".onnx" and runtime in ("auto", "openvino") and available("openvino"))
    if kind != ".ts":
        _require("openvino" if openvino else "onnxruntime", str(file))
    try:
        if openvino:
            return OpenVINORunner(file, shape, precision)
        if kind == ".onnx":
            return OnnxRunner(file)
        amp = _half_precision(device, precision, amp)
        return TorchRunner(torch.jit.load(str(file), map_location=device), device, amp, batch_size=batch_size)
    except Exception as error:
        reason = first_line(error)[:MAX_REASON]
        raise InputError(f"{file}: cannot be run ({reason}); export it again for this version") from None


def without_untrained(runner: Runner, out: torch.Tensor) -> Runner:
    """Runner without the auxiliary outputs that were not trained: without weights, they are their initial bias everywhere.

    Args:
        runner: network on a backend.
        out: its logits (B, C, *size) of any window.
    """
    trained = out.shape[1]
    while trained > NUM_CLASSES and bool((out[:, trained - 1] == UNTRAINED_LOGIT).all()):
        trained -= 1
    return TrainedOutputs(runner, trained) if trained < out.shape[1] else runner


def gpu_full(error: BaseException) -> str:
    """Line about a GPU without memory for a batch, before any scan was read."""
    return (
        f"the GPU has no memory for a batch of windows ({first_line(error)[:MAX_REASON]}); end the programs that use it, or set "
        "--sw_batch_size to a smaller number, --device to another GPU, or --device cpu"
    )


def _smoke_test(runner: Runner, shape: Sequence[int], file: Path) -> Runner:
    """Run one window, so that a network for other channels or sizes is rejected before any scan is read."""
    try:
        out = runner(torch.rand(1, *shape, generator=torch.Generator().manual_seed(0)))
    except torch.cuda.OutOfMemoryError:
        raise
    except Exception as error:
        raise InputError(
            f"{file}: does not accept {shape[0]} channel(s) of {' x '.join(map(str, shape[1:]))} "
            f"({first_line(error)[:MAX_REASON]}); set patch_size, neighbours and network_def as in its training"
        ) from None
    if not bool(torch.isfinite(out).all()):
        raise InputError(
            f"{file}: outputs NaN or infinite values for random numbers; its weights are damaged or diverged, use others"
        )
    fits = out.ndim == len(shape) + 1 and tuple(out.shape[2:]) == tuple(shape[1:])
    if not fits or not NUM_CLASSES <= out.shape[1] <= len(OUTPUTS):
        raise InputError(
            f"{file}: outputs {tuple(out.shape)} for one window of {tuple(shape)}; the network must output {OUTPUTS[0]}, "
            f"{OUTPUTS[1]} and optionally {', '.join(AUXILIARY)}"
        )
    runner.num_outputs = out.shape[1]
    return without_untrained(runner, out)
