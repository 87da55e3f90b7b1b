# SPDX-License-Identifier: Apache-2.0
"""Instructions of the CPU for bfloat16."""

from __future__ import annotations

import torch

# By PyTorch's names, and the functions that had them before `torch.cpu.get_capabilities` (2.11).
EARLIER_NAMES = {"amx_bf16": "_is_amx_tile_supported", "avx512_bf16": "_is_avx512_bf16_supported"}


def has_instructions(name: str) -> bool | None:
    """True where the CPU has instructions for bfloat16, None where PyTorch does not report it.

    Args:
        name: "amx_bf16" or "avx512_bf16".
    """
    capabilities: dict[str, object] = getattr(torch.cpu, "get_capabilities", dict)()
    if name in capabilities:
        return bool(capabilities[name])
    earlier = getattr(torch.cpu, EARLIER_NAMES[name], None)
    return None if earlier is None else bool(earlier())


def computes_bfloat16() -> bool | None:
    """True for a CPU with AMX or AVX512-BF16, which convolves faster in bfloat16; None where that is not reported."""
    found = [has_instructions(name) for name in EARLIER_NAMES]
    return True if any(found) else None if None in found else False
