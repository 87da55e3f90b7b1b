# SPDX-License-Identifier: Apache-2.0
"""Devices of PyTorch, checked before anything else of inference is imported."""

from __future__ import annotations

import torch

from ..core.errors import InputError


def check_device(device: str) -> None:
    """Refuse a device that PyTorch does not have on this machine.

    Raises:
        InputError: one line with the device and the remedy.
    """
    try:
        chosen = torch.device(device)
    except RuntimeError:
        raise InputError(f"device={device!r}: must be cpu, cuda, or one GPU such as cuda:1") from None
    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if chosen.type == "cuda" and (chosen.index or 0) >= count:
        raise InputError(f"device={device!r}: this machine has {count} GPU(s) that PyTorch can use; set device to cpu, or another")
