# SPDX-License-Identifier: Apache-2.0
"""Equality of results: CPU and device, precisions, compiled and eager, CUDA graph, and a resumed training."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import torch
from scripts.inference.config import read_config
from scripts.training.weights import load_weights
from torch import nn

from .inference import dice, mask_of, ours
from .scans import SMALL, wait_for
from .settings import CHECKPOINT, Row, Settings, attempt
from .steps import Training, synthetic_batch
from .timing import relative_error

TABLE = "correctness"


def shipped_network(device: str) -> nn.Module:
    """The shipped network with its weights, in evaluation mode."""
    parser = read_config(None, {"checkpoint": str(CHECKPOINT), "device": device})
    return load_weights(parser.get_parsed_content("network"), str(CHECKPOINT), device).eval()


def _compared(reference: torch.Tensor, logits: torch.Tensor) -> dict[str, Any]:
    first, second = (torch.cat([x[:, 1:2] - x[:, :1], x[:, 2:]], dim=1).cpu() > 0 for x in (reference, logits))
    same = (first == second).double().mean()
    return {"relative error": relative_error(reference, logits), "equal decisions": f"{100 * float(same):.4f} %"}


@torch.no_grad()
def _logits(settings: Settings, row: Row) -> None:
    size, count = ((128, 160), 8) if settings.cuda else ((32, 48), 2)
    image = synthetic_batch(count, 5, size)["image"].clamp(0, 1)
    reference = shipped_network("cpu")(image)
    network = shipped_network(settings.device)
    on_device = image.to(settings.device).contiguous(memory_format=torch.channels_last)
    kind = torch.device(settings.device).type

    def exact() -> dict[str, Any]:
        with torch.backends.cudnn.flags(enabled=True, allow_tf32=False):
            return _compared(reference, network(on_device))

    def autocast(dtype: torch.dtype) -> dict[str, Any]:
        with torch.autocast(kind, dtype=dtype):
            return _compared(reference, network(on_device).float())

    def graph() -> dict[str, Any]:
        static, side = on_device.clone(), torch.cuda.Stream()
        expected = network(on_device)
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):
            network(static)
        torch.cuda.current_stream().wait_stream(side)
        captured = torch.cuda.CUDAGraph()
        with torch.cuda.graph(captured):
            result = network(static)
        captured.replay()
        torch.cuda.synchronize()
        return {**_compared(expected, result), "note": "bitwise" if torch.equal(expected, result) else ""}

    attempt(row, TABLE, {"compared": "logits, CPU and device, float32"}, exact)
    attempt(row, TABLE, {"compared": "logits, CPU and device, float32 with TF32"}, lambda: _compared(reference, network(on_device)))
    attempt(row, TABLE, {"compared": "logits, CPU and device, bfloat16"}, lambda: autocast(torch.bfloat16))
    if settings.cuda:
        attempt(row, TABLE, {"compared": "logits, CPU and device, float16"}, lambda: autocast(torch.float16))
        attempt(row, TABLE, {"compared": "logits, eager and CUDA graph"}, graph)


def _masks(settings: Settings, row: Row) -> None:
    def measure() -> dict[str, Any]:
        scan, folder = wait_for(settings, SMALL), Path(settings.out) / "masks"
        found = []
        for device in ("cpu", settings.device):
            out = folder / f"correctness_{device.replace(':', '')}"
            ours(settings, scan, out, device)
            found.append(mask_of(out))
        voxels = f"{int(found[0].sum())} and {int(found[1].sum())} voxels"
        return {"DSC": dice(*found), "note": voxels}

    attempt(row, TABLE, {"compared": "masks of a small scan, CPU float32 and device with its defaults"}, measure)


def _resume(settings: Settings) -> dict[str, Any]:
    """Difference of the weights after 6 steps and after 3, a checkpoint on disk, and 3 more."""
    before = torch.are_deterministic_algorithms_enabled(), torch.backends.cudnn.benchmark
    torch.use_deterministic_algorithms(True, warn_only=True)
    torch.backends.cudnn.benchmark = False
    dtype = torch.bfloat16 if settings.cuda else None

    def steps(training: Training, first: int, last: int) -> None:
        for n in range(first, last):
            training.batch = synthetic_batch(
                training.batch_size, training.image.shape[1], training.batch["image"].shape[2:], seed=n
            )
            training.randomised_step()

    try:
        whole = Training(settings, dtype=dtype)
        steps(whole, 0, 6)
        half = Training(settings, dtype=dtype)
        steps(half, 0, 3)
        with tempfile.TemporaryDirectory() as folder:
            file = Path(folder) / "state.pt"
            torch.save({"network": half.network.state_dict(), "optimizer": half.optimizer.state_dict()}, file)
            resumed = Training(settings, dtype=dtype)
            state = torch.load(file, map_location=settings.device, weights_only=True)
        resumed.network.load_state_dict(state["network"])
        resumed.optimizer.load_state_dict(state["optimizer"])
        steps(resumed, 3, 6)
    finally:
        torch.use_deterministic_algorithms(before[0])
        torch.backends.cudnn.benchmark = before[1]
    pairs = [(a, b) for a, b in zip(whole.network.state_dict().values(), resumed.network.state_dict().values(), strict=True)]
    bitwise = all(torch.equal(a, b) for a, b in pairs)
    flat = [torch.cat([t.detach().double().flatten().cpu() for t in side]) for side in zip(*pairs, strict=True)]
    return {"relative error": relative_error(*flat), "note": "bitwise" if bitwise else "not bitwise"}


def run(settings: Settings, row: Row) -> None:
    """Report all comparisons; that of the compiled network is a column of the training steps."""
    _logits(settings, row)
    attempt(row, TABLE, {"compared": "resumed and uninterrupted training, 6 steps"}, lambda: _resume(settings))
    _masks(settings, row)
