# SPDX-License-Identifier: Apache-2.0
"""Instructions of the CPU for bfloat16, as PyTorch reports them in its versions."""

from __future__ import annotations

import pytest
import torch
from scripts.core.cpu_instructions import EARLIER_NAMES, computes_bfloat16, has_instructions


def report(monkeypatch, capabilities: dict | None, earlier: dict[str, bool]) -> None:
    """Set what PyTorch reports: by its function of today, or by those of earlier versions."""
    if capabilities is None:
        monkeypatch.delattr(torch.cpu, "get_capabilities", raising=False)
    else:
        monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: capabilities, raising=False)
    for name, function in EARLIER_NAMES.items():
        monkeypatch.delattr(torch.cpu, function, raising=False)
        if name in earlier:
            monkeypatch.setattr(torch.cpu, function, lambda value=earlier[name]: value, raising=False)


@pytest.mark.parametrize(
    ("capabilities", "earlier", "expected"),
    [
        ({"amx_bf16": True, "avx512_bf16": True}, {}, True),
        ({"amx_bf16": False, "avx512_bf16": True}, {}, True),
        ({"amx_bf16": False, "avx512_bf16": False}, {}, False),
        (None, {"amx_bf16": False, "avx512_bf16": True}, True),
        (None, {"amx_bf16": False, "avx512_bf16": False}, False),
        (None, {"avx512_bf16": True}, True),
        (None, {"avx512_bf16": False}, None),
        ({}, {}, None),
    ],
    ids=str,
)
def test_bfloat16_by_what_is_reported(monkeypatch, capabilities, earlier, expected):
    report(monkeypatch, capabilities, earlier)
    assert computes_bfloat16() is expected


def test_present_function_has_priority(monkeypatch):
    report(monkeypatch, {"amx_bf16": False}, {"amx_bf16": True})
    assert has_instructions("amx_bf16") is False


def test_this_cpu_has_an_answer():
    assert computes_bfloat16() in (True, False, None)
