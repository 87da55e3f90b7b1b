# SPDX-License-Identifier: Apache-2.0
"""Checks of many cases, before training or inference: one line per issue with file, value and remedy."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor

from tqdm import tqdm

from ...io.image_checks import Issue, inspect_case


def inspect_cases(
    cases: Sequence[Mapping],
    level: str = "full",
    label_values: Sequence[int] = (0, 1, 255),
    expect_hu: bool = True,
    workers: int = 2,
) -> tuple[list[Issue], list[dict]]:
    """Issues and facts of every case in the order of the cases, with a progress bar; see ``io.image_checks.inspect_case``.

    Args:
        cases: items of a datalist.
        level: "header" for files and grids only, "full" for the voxels, too.
        label_values: values allowed in a label.
        expect_hu: whether values that are not HU are errors.
        workers: number of threads.
    """
    with ThreadPoolExecutor(max(workers, 1)) as pool:
        results = pool.map(lambda case: inspect_case(case, level, label_values, expect_hu), cases)
        inspected = list(tqdm(results, total=len(cases), desc="checking data", unit="case", disable=not cases))
    return [issue for issues, _ in inspected for issue in issues], [facts for _, facts in inspected]


def check_cases(
    cases: Sequence[Mapping], level: str = "full", label_values: Sequence[int] = (0, 1), workers: int = 2, expect_hu: bool = True
) -> list[str]:
    """Lines of the errors of ``inspect_cases``; empty when there is none."""
    issues, _ = inspect_cases(cases, level, label_values, expect_hu, workers)
    return [issue.line for issue in issues if issue.severity == "error"]
