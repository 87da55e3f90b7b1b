# SPDX-License-Identifier: Apache-2.0
"""Outputs, input channels and last layers of stored weights, so that evaluation and inference need no options for them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from xml.etree import ElementTree

import torch

from ..networks.outputs import NUM_CLASSES, OUTPUTS
from .wider_weights import HEAD

MAX_CHANNELS = 15  # of slices; more belong to a layer within a network


def _first(checkpoint: object) -> Path | None:
    """File of a checkpoint, of an ensemble that of its first member; None for a missing one."""
    if isinstance(checkpoint, Mapping):
        checkpoint = list(checkpoint.values())
    if isinstance(checkpoint, (list, tuple)):
        return _first(checkpoint[0]) if checkpoint else None
    file = Path(str(checkpoint))
    return file if file.is_file() else None


def _stored_tensors(file: Path) -> dict[str, torch.Tensor] | None:
    """State dict of weights or of a TorchScript file; None where it cannot be read."""
    try:
        if file.suffix.lower() == ".ts":
            return dict(torch.jit.load(str(file), map_location="cpu").state_dict())
        if file.suffix.lower() != ".pt":
            return None
        state = torch.load(file, map_location="cpu", weights_only=True, mmap=True)
    except Exception:  # `load_weights` and the runtimes report it
        return None
    state = state["model"] if isinstance(state, dict) and isinstance(state.get("model"), dict) else state
    return state if isinstance(state, dict) else None


def auxiliary_outputs_of(checkpoint: object) -> list[str]:
    """Auxiliary outputs of the MSFFNet whose weights a checkpoint has, so that a config needs no option for them.

    Args:
        checkpoint: path; of an ensemble a list or dictionary of paths, whose first file counts. A file that is missing, of another
            network, or exported to ONNX or OpenVINO leaves them unknown: all outputs are returned.
    """
    file = _first(checkpoint)
    head = (_stored_tensors(file) or {}).get(HEAD) if file is not None else None
    count = len(head) if isinstance(head, torch.Tensor) else len(OUTPUTS)
    return list(OUTPUTS[NUM_CLASSES : max(min(count, len(OUTPUTS)), NUM_CLASSES)])


def decoder_channels_of(checkpoint: object) -> int | None:
    """Channels of the last layers of the MSFFNet whose weights a checkpoint has, its ``decoder_channels``.

    Args:
        checkpoint: path; of an ensemble a list or dictionary of paths, whose first file counts. For a file that is missing, of
            another network, or exported to ONNX or OpenVINO None is returned, the network's default.
    """
    file = _first(checkpoint)
    head = (_stored_tensors(file) or {}).get(HEAD) if file is not None else None
    return int(head.shape[1]) or None if isinstance(head, torch.Tensor) and head.dim() >= 4 else None


def neighbours_of(checkpoint: object) -> int:
    """Neighbouring slices on each side that a network of one image has as channels, from the weights of its first convolution.

    Args:
        checkpoint: path; of an ensemble a list or dictionary of paths, whose first file counts. A file that is missing or cannot be
            read leaves them unknown: 0 is returned.
    """
    file = _first(checkpoint)
    if file is None:
        return 0
    channels = EXPORTED_CHANNELS.get(file.suffix.lower(), _first_convolution)(file)
    return (channels - 1) // 2 if channels and channels % 2 and channels <= MAX_CHANNELS else 0


def _first_convolution(file: Path) -> int | None:
    """Input channels of the first convolution in a state dict or TorchScript file."""
    tensors = (_stored_tensors(file) or {}).values()
    return next((int(t.shape[1]) for t in tensors if isinstance(t, torch.Tensor) and t.dim() >= 4), None)


def _openvino_channels(file: Path) -> int | None:
    """Channels of the input in the description of an OpenVINO network."""
    try:
        layers = ElementTree.parse(file).getroot().iter("layer")
        shape = next((layer.find("data").get("shape", "") for layer in layers if layer.get("type") == "Parameter"), "")  # type: ignore[union-attr]
        return int(shape.split(",")[1])
    except (OSError, ElementTree.ParseError, AttributeError, IndexError, ValueError):
        return None


def _onnx_channels(file: Path) -> int | None:
    """Channels of the input of an ONNX file, where ONNX Runtime is installed."""
    try:
        from onnxruntime import InferenceSession

        return int(InferenceSession(str(file), providers=["CPUExecutionProvider"]).get_inputs()[0].shape[1])
    except Exception:  # the runtime reports it
        return None


EXPORTED_CHANNELS: dict[str, Callable[[Path], int | None]] = {".xml": _openvino_channels, ".onnx": _onnx_channels}
