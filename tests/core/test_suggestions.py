# SPDX-License-Identifier: Apache-2.0
"""Hints about misspelt names: the nearest name, else a list of bounded length."""

from __future__ import annotations

import pytest
from scripts.core.suggestions import MAX_LISTED, suggest


@pytest.mark.parametrize(
    ("name", "names", "prefix", "expected"),
    [
        ("treshold", ["threshold", "spacing"], "", "did you mean threshold?"),
        ("min_volum_ml", ["min_volume_ml", "out"], "--", "did you mean --min_volume_ml?"),
        ("zzz", ["alpha", "beta"], "--", "known: --alpha, --beta"),
        ("zzz", [], "", "known: none"),
        (128, [129, 7], "", "did you mean 129?"),
    ],
)
def test_nearest_name_or_the_list_of_names(name, names, prefix, expected):
    assert suggest(name, names, prefix) == expected


def test_long_lists_are_cut():
    names = [f"option{n:02d}" for n in range(MAX_LISTED + 5)]
    hint = suggest("zzz", names)
    assert hint.count("option") == MAX_LISTED
    assert hint.endswith(", ...")
    assert "..." not in suggest("zzz", names[:MAX_LISTED])
