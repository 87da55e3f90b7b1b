# SPDX-License-Identifier: Apache-2.0
"""Checks of the data that run before any epoch starts: every problem in one line with file, value and remedy."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
from tqdm import tqdm

from ..errors import InputError
from .datalist import section_problem

AFFINE_TOLERANCE_MM = 0.05
MAX_SHOWN = 20
logger = logging.getLogger(__name__)


def grid_offset(shape: Sequence[int], first: np.ndarray, second: np.ndarray) -> float:
    """Return how far apart (mm) two affines place a corner of a volume of ``shape``, at most."""
    corners = np.array([[(0, n - 1)[b] for n, b in zip(shape, bits, strict=True)] for bits in np.ndindex(2, 2, 2)])
    difference = first - second
    return float(np.abs(corners @ difference[:3, :3].T + difference[:3, 3]).max())


def _without_trailing_ones(shape: Sequence[int]) -> tuple[int, ...]:
    kept = [int(n) for n in shape]
    while len(kept) > 3 and kept[-1] == 1:
        kept.pop()
    return tuple(kept)


def _read(path: str):
    """Return an image as (nibabel-like header geometry, loader); other formats than NIfTI go through MONAI's reader."""
    import nibabel

    if str(path).endswith((".nii", ".nii.gz")):
        volume = nibabel.load(path)
        return _without_trailing_ones(volume.shape), np.asarray(volume.affine), lambda: np.asanyarray(volume.dataobj)
    from monai.transforms import LoadImage

    image = LoadImage(image_only=True)(path)
    return _without_trailing_ones(image.shape), np.asarray(image.affine), lambda: np.asarray(image)


def _voxel_problems(image: str, label: str | None, image_data, label_data, values: Sequence[int]) -> Iterator[str]:
    data = image_data()
    if not np.all(np.isfinite(data)):
        yield f"{image}: holds NaN or infinite values; replace them by -1024 (air) or leave the case out"
    elif data.max() == data.min():
        yield f"{image}: every voxel is {data.max():g}; the file holds no image"
    if label is None:
        return
    mask = label_data()
    if not np.all(np.isfinite(mask)):
        yield f"{label}: holds NaN or infinite values; a label holds only {sorted(values)}"
        return
    found = np.unique(mask)
    wrong = [v for v in found.tolist() if v not in set(values)]
    if wrong:
        shown = ", ".join(f"{v:g}" for v in wrong[:5]) + (" ..." if len(wrong) > 5 else "")
        yield (
            f"{label}: holds the values {shown}, expected only {sorted(values)}; map fractured vertebrae to 1 and the rest to 0, "
            "or name the values in `label_values`"
        )


def case_problems(case: dict, level: str = "full", label_values: Sequence[int] = (0, 1)) -> list[str]:
    """Return one line per problem of a case; an empty list means none was found.

    Args:
        case: item of a datalist, with ``image`` and, for training, ``label``.
        level: "header" compares files and geometry, "full" reads the voxels too.
        label_values: values that a label may hold.
    """
    image, label = case.get("image"), case.get("label")
    if not isinstance(image, str):
        return [f"case {case}: has no `image` path; give every case an `image`"]
    missing = [p for p in (image, label) if isinstance(p, str) and not Path(p).exists()]
    if missing:
        return [f"{p}: does not exist; correct the datalist or restore the file" for p in missing]
    try:
        shape, affine, image_data = _read(image)
        label_data = None
        if len(shape) != 3 or min(shape) < 1:
            return [
                f"{image}: has shape {shape}; a three-dimensional volume is needed, so split a series into its volumes"
            ]
        problems: list[str] = []
        if isinstance(label, str):
            label_shape, label_affine, label_data = _read(label)
            if shape != label_shape:
                problems.append(
                    f"{label}: has shape {label_shape} but its image {shape}; resample the label to the grid of {image}"
                )
            else:
                off = grid_offset(shape, affine, label_affine)
                if off > AFFINE_TOLERANCE_MM:
                    problems.append(
                        f"{label}: lies up to {off:.2f} mm off its image (affines differ); copy the affine of {image} or resample"
                    )
        if level == "full" and not problems:
            problems.extend(
                _voxel_problems(image, label if isinstance(label, str) else None, image_data, label_data, label_values)
            )
        return problems
    except Exception as error:
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        return [f"{image}: cannot be read ({reason}); the file may be truncated, copy it again"]


def check_cases(
    cases: Sequence[dict], level: str = "full", label_values: Sequence[int] = (0, 1), workers: int = 2
) -> list[str]:
    """Check many cases with a progress bar; returns the problems in the order of the cases."""
    with ThreadPoolExecutor(max_workers=max(workers, 1)) as pool:
        found = pool.map(lambda case: case_problems(case, level, label_values), cases)
        lines = list(tqdm(found, total=len(cases), desc="checking data", unit="case", disable=len(cases) == 0))
    return [line for problems in lines for line in problems]


def preflight(
    sections: dict[str, Sequence[dict]],
    required: Sequence[str] = ("training",),
    source: str = "",
    level: str = "full",
    label_values: Sequence[int] = (0, 1),
    workers: int = 2,
) -> None:
    """Refuse to start when data are missing or broken.

    Args:
        sections: cases per section of the datalist.
        required: sections that must not be empty.
        source: where the cases come from, for messages.
        level: "full", "header" or "off".
        label_values: values that a label may hold.
        workers: threads.

    Raises:
        InputError: after every problem was logged in a line of its own.
    """
    from ..training.command_line import check_command_line

    check_command_line()
    if level not in ("full", "header", "off"):
        raise InputError(f"check_data={level!r}: give full, header or off")
    for name in required:
        if not sections.get(name):
            reason = (section_problem(source, name) if source else None) or f"gives no `{name}` case"
            raise InputError(
                f"{source or 'the datalist'}: {reason}; set dataset_dir to a folder with a datalist.json "
                "(make one with: python -m scripts.data phantom --out DIR)"
            )
    if level == "off":
        return
    cases = [case for items in sections.values() for case in items]
    problems = check_cases(cases, level, label_values, workers)
    for line in problems[:MAX_SHOWN]:
        logger.error(line)
    if problems:
        more = f" (the first {MAX_SHOWN} are shown)" if len(problems) > MAX_SHOWN else ""
        raise InputError(f"{problems[0]}\n{len(problems)} problem(s) in {len(cases)} cases{more}; nothing was started")
