# SPDX-License-Identifier: Apache-2.0
"""Small copy of a data set at the resolution of the training, for machines reached through a narrow channel."""

from __future__ import annotations

import gzip
import json
import os
import shutil
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path

import nibabel as nib
import numpy as np
from numpy.typing import NDArray

from ..core.errors import InputError
from ..core.files import atomic_write, write_text
from ..io.formats import stem
from .datalist import FILE_KEYS, SECTIONS, read_datalist, relative_case, write_datalist
from .datasets.conversion import begin_dataset, process_cases
from .source_files import content_hash, file_state

HU_RANGE = (-680.0, 1615.0)  # beyond it training clips: configs/randomisation.yaml
COPIED = ("vertebrae.csv", "build.json")
STEP_HU = 9.0
SOURCES = "sources.json"


def quantise(image: NDArray[np.floating], step_hu: float = STEP_HU) -> NDArray[np.uint8]:
    """Return an image in HU as steps of 8 bits above the lower end of ``HU_RANGE``; the error in the range is half a step."""
    low, high = HU_RANGE
    return np.rint((np.clip(image, low, high) - low) / step_hu).astype(np.uint8)


def stored_paths(cases: Sequence[Mapping[str, str]], root: Path, suffix: str) -> dict[tuple[str, str], str]:
    """Relative path in the copy of every file, by key and path; a file outside ``root`` is stored under ``others``.

    It keeps its name, by which tables find it, unless another file has that path already, such as ``a.nii`` beside ``a.mha``.
    """
    paths: dict[tuple[str, str], str] = {}
    taken: set[str] = set()
    for case in cases:
        for key in FILE_KEYS:
            source = case.get(key)
            if source is None or (key, source) in paths:
                continue
            inside = os.path.relpath(source, root)
            folder = f"others/{key}s" if inside.startswith("..") else Path(inside).parent.as_posix()
            name, number = stem(inside), 0
            while (path := f"{folder}/{f'{number:04d}_' if number else ''}{name}{suffix}").casefold() in taken:
                number += 1
            taken.add(path.casefold())
            paths[key, source] = path
    return paths


def _remove_outdated(root: Path, paths: Mapping[tuple[str, str], str]) -> None:
    """Remove copies of files that have changed since, or of another set, and record what the copies are made from.

    The copy of a file that is missing now is kept.
    """
    record = root / SOURCES
    try:
        before = json.loads(record.read_text(encoding="utf-8"))
    except (OSError, ValueError):  # of a version before 0.24
        before = None
    if isinstance(before, dict):
        before = {path: entry for path, entry in before.items() if isinstance(entry, list) and len(entry) == 2}
    else:
        before = None
    now = dict(before or {})
    for (key, source), path in paths.items():
        state, former = file_state(source) if key == "image" else content_hash(source), (before or {}).get(path)
        if before is not None and (former is None or (former[1] != state and (state or former[0] != source))):
            (root / path).unlink(missing_ok=True)
        if state or former is None:
            now[path] = [source, state]
    write_text(record, json.dumps(now, indent=1) + "\n")


def _write(array: NDArray[np.uint8], affine: NDArray, slope: float, low: float, path: Path) -> None:
    image = nib.Nifti1Image(array, affine)
    image.header.set_xyzt_units("mm")
    image.header.set_slope_inter(slope, low)
    with atomic_write(path) as temporary:
        data = image.to_bytes()
        # Equal data are equal files: no time in the header.
        temporary.write_bytes(gzip.compress(data, 9, mtime=0) if path.suffix == ".gz" else data)


def _convert(
    case: Mapping[str, str], paths: Mapping[tuple[str, str], str], root: Path, spacing: Sequence[float], step_hu: float
) -> bool:
    """Write the copies of a case that are missing; True when it has all."""
    from monai.transforms import Compose, LoadImaged, Orientationd

    from .transforms import SafeSpacingd

    missing = [key for key in FILE_KEYS if key in case and not (root / paths[key, case[key]]).is_file()]
    if not missing:
        return True
    for key in missing:
        if not Path(case[key]).exists():
            raise ValueError(f"{case[key]}: no such file; restore it, or correct the datalist")
    keys = list(missing)
    load = Compose(
        [
            LoadImaged(keys=keys, image_only=True, ensure_channel_first=True),
            Orientationd(keys=keys, axcodes="RAS", labels=None),
            SafeSpacingd(keys=keys, pixdim=spacing, mode=["bilinear" if key == "image" else "nearest" for key in keys]),
        ]
    )
    for key, volume in load({key: case[key] for key in keys}).items():
        if key not in keys:
            continue
        values, affine = volume[0].numpy(), np.asarray(volume.affine, dtype=float)
        is_image = key == "image"
        stored = quantise(values, step_hu) if is_image else np.rint(values).astype(np.uint8)
        scaling = (step_hu, HU_RANGE[0]) if is_image else (1.0, 0.0)
        _write(stored, affine, *scaling, root / paths[key, case[key]])
    return True


def compact(
    dataset_dir: str,
    out: str,
    spacing: Sequence[float] = (1.5, 1.5, 1.5),
    step_hu: float = STEP_HU,
    compress: bool = True,
    workers: int = 2,
) -> str:
    """Write a small copy of a data set: scans of 8 bits at the resolution of the training, with their labels.

    Values beyond -680 and 1615 HU are clipped, as the training of the shipped weights clips them; the steps are below the
    noise that this training adds. The copy is for that recipe, not for evaluation at full resolution. Rerun the same command to
    resume.

    Args:
        dataset_dir: folder with a datalist.json, or the datalist.
        out: folder to write to.
        spacing: voxel size of the copy in mm, right-left, anterior-posterior, inferior-superior; that of the training.
        step_hu: HU between two of the 8-bit values, at least 9; larger steps make smaller files.
        compress: write .nii.gz; False for an archive that is compressed as a whole.
        workers: number of threads.

    Returns:
        Path of the datalist of the copy.
    """
    if len(spacing) != 3 or not all(0 < s < 100 for s in spacing):
        raise InputError(f"spacing={list(spacing)}; must be three sizes in mm, such as [1.5,1.5,1.5]")
    if not STEP_HU <= step_hu <= 50:
        raise InputError(f"step_hu={step_hu}; must be from {STEP_HU:g} to 50 HU")
    file, sections = read_datalist(dataset_dir)
    source, root = file.resolve().parent, Path(out).resolve()
    if root == source or root in source.parents:
        raise InputError(f"out={out}: contains the data set; choose another folder")
    cases = [case for section in SECTIONS for case in sections[section]]
    paths = stored_paths(cases, source, ".nii.gz" if compress else ".nii")
    first: dict[tuple[str, ...], dict] = {}  # repeated cases are written once
    for case in cases:
        first.setdefault(tuple(str(case.get(key)) for key in FILE_KEYS), case)
    begin_dataset(root, {"spacing": [float(s) for s in spacing], "step_hu": float(step_hu), "compress": bool(compress)})
    _remove_outdated(root, paths)
    convert = partial(_convert, paths=paths, root=root, spacing=spacing, step_hu=step_hu)
    chosen = list(first.values())
    done, failures = process_cases(convert, chosen, lambda case: case["image"], workers, "compacting", "scan")
    failed = {case["image"] for case, finished in zip(chosen, done, strict=True) if not finished}
    copied = {
        section: [
            relative_case({k: str(root / paths[k, v]) if k in FILE_KEYS else v for k, v in case.items()}, root / "datalist.json")
            for case in sections[section]
            if case["image"] not in failed
        ]
        for section in SECTIONS
    }
    for name in COPIED:
        (root / name).unlink(missing_ok=True)  # of another set
        if (source / name).is_file():
            shutil.copyfile(source / name, root / name)
    write_datalist(
        root / "datalist.json", copied, f"8-bit copy at {' x '.join(f'{s:g}' for s in spacing)} mm, steps of {step_hu:g} HU."
    )
    if failures:
        raise InputError(
            f"{len(failures)} of {len(cases)} cases could not be copied, see above; {root / 'datalist.json'} has the others"
        )
    return str(root / "datalist.json")
