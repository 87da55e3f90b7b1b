# SPDX-License-Identifier: Apache-2.0
"""Export of networks as TorchScript, ONNX and OpenVINO IR, each compared with PyTorch."""

from __future__ import annotations

import contextlib
import importlib.util
import logging
import os
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import nn

from ..core.errors import InputError
from ..core.files import atomic_write, write_table
from ..networks.exported_description import EXTRA_FILE, add_to_onnx
from ..networks.outputs import probabilities
from ..networks.weights_checksum import KEY, UNSEALED, seal
from ..networks.weights_description import ATTRIBUTE
from ..training.weights import read_weights
from .config import read_config
from .runtimes import import_openvino, load_runner

FORMATS = {"torchscript": ".ts", "onnx": ".onnx", "openvino": ".xml"}
REQUIREMENTS = {"torchscript": (), "onnx": ("onnx", "onnxscript"), "openvino": ("openvino",)}
EXPORT_COLUMNS = ("format", "file", "mib", "logits_random", "probability_random", "logits_phantom", "probability_phantom")


def _torchscript(network: nn.Module, example: torch.Tensor, path: Path, text: str | None) -> None:
    from monai.networks.utils import convert_to_torchscript

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        extra = {} if text is None else {EXTRA_FILE: text}
        torch.jit.save(convert_to_torchscript(network), str(path), _extra_files=extra)


def _onnx(network: nn.Module, example: torch.Tensor, path: Path, text: str | None) -> None:
    from torch.export import Dim

    stride = int(getattr(network, "stride", 16))
    axes = {0: Dim("batch", min=1, max=1024)}
    for n in range(example.ndim - 2):
        axes[n + 2] = stride * Dim(f"size{n}", min=2, max=4096 // stride)
    exporters = [logging.getLogger(name) for name in ("torch.onnx", "torch.export", "onnxscript")]
    levels = [logger.level for logger in exporters]
    for logger in exporters:
        logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings(), open(os.devnull, "w") as null, contextlib.redirect_stdout(null):
            warnings.simplefilter("ignore")
            torch.onnx.export(
                network,
                (example,),
                str(path),
                dynamo=True,
                verbose=False,
                external_data=False,
                input_names=["image"],
                output_names=["pred"],
                dynamic_shapes=(axes,),
            )
    finally:
        for logger, level in zip(exporters, levels, strict=True):
            logger.setLevel(level)
    add_to_onnx(path, text)


def _openvino(network: nn.Module, example: torch.Tensor, path: Path, text: str | None) -> None:
    openvino = import_openvino()
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = openvino.convert_model(network, example_input=example, input=[-1, *example.shape[1:]])
    if text is not None:
        model.set_rt_info(text, [ATTRIBUTE])
    model.set_rt_info(UNSEALED, [KEY])
    openvino.save_model(model, str(path), compress_to_fp16=False)
    seal(path)


WRITERS: dict[str, Callable[[nn.Module, torch.Tensor, Path, str | None], None]] = {
    "torchscript": _torchscript,
    "onnx": _onnx,
    "openvino": _openvino,
}


def phantom_batch(shape: Sequence[int], hu: Sequence[float], count: int = 4) -> torch.Tensor:
    """Batch (count, *shape) of windows of a phantom, scaled as in inference."""
    from ..simulation.phantom.generator import make_phantom

    scan = make_phantom(0, "lumbar")
    volume = torch.from_numpy(np.clip((scan.image.astype(np.float32) - hu[0]) / (hu[1] - hu[0]), 0, 1))
    size = shape[1:]
    if len(size) == 3:
        patch = torch.zeros(*size)
        part = volume[tuple(slice(0, n) for n in size)]
        patch[tuple(slice(0, n) for n in part.shape)] = part
        return patch.expand(1, shape[0], *size).contiguous()
    batch = torch.zeros(count, *shape)
    middle = np.linspace(0.35, 0.65, count) * volume.shape[0]
    for n, index in enumerate(middle):
        part = volume[int(index)][tuple(slice(0, w) for w in size)]
        batch[(n, slice(None), *(slice(0, s) for s in part.shape))] = part
    return batch


def export(
    checkpoint: str, *, out: str, formats: Sequence[str] | str = tuple(FORMATS), config: Sequence[str] | str | None = None
) -> None:
    """Export a checkpoint as TorchScript, ONNX and OpenVINO IR and compare each with PyTorch.

    Writes NAME.ts, NAME.onnx, NAME.xml with NAME.bin, and exports.csv with the largest absolute differences of logits and
    probabilities on a random batch and on slices of a phantom. ONNX accepts any batch and any size that is a multiple of the
    network's stride; OpenVINO IR any batch of the window of the config. Each is a --checkpoint for inference and holds the
    description of the weights, where they have one.

    Args:
        checkpoint: weights (.pt).
        out: folder to write to.
        formats: formats to write: torchscript, onnx, openvino.
        config: overlay of the inference config, or a list of them, for weights without a description.
    """
    formats = [formats] if isinstance(formats, str) else list(formats)
    for name in formats:
        if name not in FORMATS:
            raise InputError(f"formats={name!r}: must be one or more of {', '.join(FORMATS)}")
        missing = [p for p in REQUIREMENTS[name] if importlib.util.find_spec(p) is None]
        if missing:
            raise InputError(f"formats={name}: {', '.join(missing)} not installed; pip install {' '.join(missing)}")
    parser = read_config(config, {"checkpoint": checkpoint, "device": "cpu"})
    network = parser.get_parsed_content("network_def").cpu()
    size = [int(n) for n in parser.get_parsed_content("patch_size")]
    shape = (int(parser.get_parsed_content("network_def::in_channels")), *size)
    hu = parser.get_parsed_content("hu_window")
    reference = load_runner(network, checkpoint, shape, "cpu", "torch", "float32")
    network.eval().to(memory_format=torch.contiguous_format)
    batches = {"random": torch.rand(2, *shape, generator=torch.Generator().manual_seed(0)), "phantom": phantom_batch(shape, hu)}
    expected = {k: reference(b) for k, b in batches.items()}
    _, description = read_weights(checkpoint)
    text = None if description is None else description.text()
    rows = []
    for name in formats:
        path = Path(out) / (Path(checkpoint).stem + FORMATS[name])
        print(f"{name}: {path}", flush=True)
        if name == "openvino":  # two files that reference each other
            path.parent.mkdir(parents=True, exist_ok=True)
            WRITERS[name](network, batches["random"], path, text)
        else:
            with atomic_write(path) as temporary:
                WRITERS[name](network, batches["random"], temporary, text)
        runner = load_runner(network, str(path), shape, "cpu", "torch" if name == "torchscript" else "auto", "float32")
        row: dict[str, object] = {"format": name, "file": path.name, "mib": round(path.stat().st_size / 2**20, 2)}
        if name == "openvino":
            row["mib"] = round((path.stat().st_size + path.with_suffix(".bin").stat().st_size) / 2**20, 2)
        for kind, batch in batches.items():
            logits = runner(batch)
            row[f"logits_{kind}"] = f"{float((logits - expected[kind]).abs().max()):.2e}"
            row[f"probability_{kind}"] = f"{float((probabilities(logits) - probabilities(expected[kind])).abs().max()):.2e}"
        rows.append(row)
    write_table(Path(out) / "exports.csv", rows, EXPORT_COLUMNS)
    print("\n| " + " | ".join(EXPORT_COLUMNS) + " |\n" + "| --- " * len(EXPORT_COLUMNS) + "|")
    for row in rows:
        print("| " + " | ".join(str(row[c]) for c in EXPORT_COLUMNS) + " |")
