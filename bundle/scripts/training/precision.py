# SPDX-License-Identifier: Apache-2.0
"""bfloat16 in training on a CPU: mixed precision of MONAI's trainer is for CUDA only."""

from __future__ import annotations

import torch
from torch import nn

from ..core.cpu_instructions import has_instructions


class CpuBfloat16(nn.Module):
    """Wrapper of a network with a bfloat16 forward pass, for the operations that PyTorch's autocast considers safe.

    Weights, gradients and the output stay float32, so no gradient is scaled. Checkpoints hold the network itself. On CPUs with
    AMX a step is faster; with AVX-512 BF16 only it took 1.2 times as long as in float32, without either ten times.

    Args:
        network: network on the CPU.

    Raises:
        ValueError: when the network lies on another device, whose mixed precision is the knob ``amp``.
    """

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        device = next(network.parameters()).device.type
        if device != "cpu":
            raise ValueError(f"CpuBfloat16: the network is on {device}; set amp to true instead, and omit this overlay.")
        self.network = network

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return the network's output for (B, C, ...) as float32."""
        with torch.autocast("cpu", dtype=torch.bfloat16):
            return self.network(x).float()


def fast_bfloat16() -> bool:
    """True for a CPU with AMX, which trains faster in bfloat16 than in float32."""
    return bool(has_instructions("amx_bf16"))


def low_precision(network: nn.Module) -> nn.Module:
    """``CpuBfloat16`` on a CPU with AMX; elsewhere the network itself: GPUs have ``amp``, other CPUs float32."""
    return CpuBfloat16(network) if next(network.parameters()).device.type == "cpu" and fast_bfloat16() else network
