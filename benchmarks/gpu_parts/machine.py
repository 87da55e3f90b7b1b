# SPDX-License-Identifier: Apache-2.0
"""Facts of the machine, bandwidth of copies, and the rate of convolutions as the ceiling of the other tables."""

from __future__ import annotations

import os
import platform
import time
from importlib.metadata import PackageNotFoundError, version

import numpy as np
import torch

from .settings import Row, Settings, attempt
from .timing import repeated, synchronize

PACKAGES = ("torch", "triton", "numpy", "scipy", "scikit-image", "nibabel", "monai", "pytorch-ignite", "fire")
CHANNELS = (256, 64, 16)  # the first is the ceiling


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "not installed"


def convolution(device: str, dtype: torch.dtype, channels: int, seconds: float, small: bool) -> list[float]:
    """Operations per second of a 3x3 convolution, channels-last, forward, in blocks.

    Args:
        device: PyTorch device.
        dtype: of image and weights.
        channels: in and out.
        seconds: time of the measurement.
        small: a small image, for tests.
    """
    size = (2, 16, 16) if small else (32, 64, 80)
    x = torch.randn(size[0], channels, *size[1:], device=device, dtype=dtype).contiguous(memory_format=torch.channels_last)
    layer = torch.nn.Conv2d(channels, channels, 3, padding=1, bias=False).to(device, dtype, memory_format=torch.channels_last)
    with torch.no_grad():
        return [2 * x.numel() * channels * 9 / s for s in repeated(lambda: layer(x), device, seconds)]


def _copies(settings: Settings, row: Row) -> None:
    device, count = settings.device, 2**28 if settings.cuda else 2**20  # bytes
    source = torch.zeros(count, dtype=torch.uint8, device=device)
    target = torch.empty_like(source)
    seconds = np.median(repeated(lambda: target.copy_(source), device, 0.3 if settings.cuda else 0.02))
    row("machine", {"fact": "copy on the device, bytes read and written", "value": f"{2 * count / seconds / 1e9:.0f} GB/s"})
    if settings.cuda:
        host = torch.empty(count, dtype=torch.uint8, pin_memory=True)
        to, back = (
            np.median(repeated(work, device, 0.2))
            for work in (lambda: target.copy_(host, non_blocking=True), lambda: host.copy_(target, non_blocking=True))
        )
        text = f"{count / to / 1e9:.1f} and {count / back / 1e9:.1f} GB/s"
        row("machine", {"fact": "copy of pinned memory to the device and back", "value": text})


def run(settings: Settings, row: Row) -> None:
    """Report the machine and its rates."""
    for name, value in (
        ("date", time.strftime("%Y-%m-%d")),
        ("system", f"{platform.system()} {platform.machine()}, Python {platform.python_version()}"),
        ("processor cores", f"{len(os.sched_getaffinity(0))}, {torch.get_num_threads()} threads of PyTorch"),
        ("packages", ", ".join(f"{p} {_version(p)}" for p in PACKAGES)),
    ):
        row("machine", {"fact": name, "value": value})
    if settings.cuda:
        begin = time.perf_counter()
        torch.zeros(1, device=settings.device)
        synchronize(settings.device)
        facts = torch.cuda.get_device_properties(settings.device)
        row("machine", {"fact": "device", "value": f"{facts.name}, {facts.multi_processor_count} multiprocessors"})
        row("machine", {"fact": "memory of the device", "value": f"{facts.total_memory / 2**30:.0f} GiB"})
        libraries = f"CUDA {torch.version.cuda}, cuDNN {torch.backends.cudnn.version()}"
        row("machine", {"fact": "libraries", "value": libraries})
        row("machine", {"fact": "first tensor on the device", "value": f"{time.perf_counter() - begin:.1f} s"})
    else:
        row("machine", {"fact": "device", "value": settings.device})
    torch.backends.cudnn.benchmark = True
    seconds = (0.3 if settings.short else 1.0) if settings.cuda else 0.02
    for dtype in (torch.bfloat16, torch.float32):
        for channels in CHANNELS if dtype is torch.bfloat16 else CHANNELS[:1]:
            name = str(dtype).removeprefix("torch.")

            def measure(dtype: torch.dtype = dtype, channels: int = channels) -> dict:
                rates = convolution(settings.device, dtype, channels, seconds, small=not settings.cuda)
                middle = float(np.median(rates))
                spread = f"{min(rates) / 1e12:.4g} to {max(rates) / 1e12:.4g}"
                return {"TFLOP/s": round(middle / 1e12, 4), "range": spread, "operations_per_second": middle}

            attempt(row, "convolution", {"dtype": name, "channels": channels}, measure)
    try:
        _copies(settings, row)
    except RuntimeError as error:
        row("machine", {"fact": "copies", "value": f"failed: {error}".splitlines()[0]})
