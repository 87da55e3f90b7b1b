# SPDX-License-Identifier: Apache-2.0
"""bfloat16 in training on a CPU: MONAI's trainer knows mixed precision on CUDA alone."""

from __future__ import annotations

import torch
from torch import nn


class CpuBfloat16(nn.Module):
    """What the trainer calls in place of a network: its forward pass runs in bfloat16 where PyTorch holds that safe.

    Weights, gradients and the output stay float32, so no gradient is scaled. Checkpoints hold the network itself. On CPUs with
    AMX or AVX-512 BF16 a step is faster; on others it may be slower.

    Args:
        network: network on the CPU.

    Raises:
        ValueError: when the network lies on another device, whose mixed precision is the knob ``amp``.
    """

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        device = next(network.parameters()).device.type
        if device != "cpu":
            raise ValueError(
                f"CpuBfloat16: the network is on {device}; set amp to true instead, and leave this overlay out."
            )
        self.network = network

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return the network's output for (B, C, ...) as float32."""
        with torch.autocast("cpu", dtype=torch.bfloat16):
            return self.network(x).float()


def low_precision(network: nn.Module) -> nn.Module:
    """``CpuBfloat16`` on a CPU; elsewhere the network itself, as ``amp`` serves there."""
    return CpuBfloat16(network) if next(network.parameters()).device.type == "cpu" else network
