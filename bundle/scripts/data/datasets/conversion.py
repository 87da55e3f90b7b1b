# SPDX-License-Identifier: Apache-2.0
"""Shared part of the converters: label maps, table of vertebrae and datalist of a data set; failures are isolated per case."""

from __future__ import annotations

import json
import os
import sys
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

import nibabel as nib
import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from ...core.errors import InputError, first_line
from ...core.files import atomic_write, ensure_same_settings, write_text
from ...core.geometry import AFFINE_TOLERANCE_MM, grid_offset
from ..datalist import write_datalist
from ..source_files import content_hash, file_state
from ..split import continued_split
from ..vertebra_table import FILE_NAME, vertebra_rows, write_vertebra_table

OUTPUTS = ("datalist.json", "masks.json", FILE_NAME, "images", "labels", "vertebrae")
Case = TypeVar("Case")
Result = TypeVar("Result")


@dataclass
class ConvertedCase:
    """Converted scan; all its images have the grid of the CT.

    Attributes:
        label: training label (0, 1, 255), or None for a set without one.
        vertebrae: vertebra instances, VerSe labels, or None.
        image: CT to write, or None when the datalist refers to the source file.
        attributes: columns of the table of vertebrae by label, see ``vertebra_table.COLUMNS``.
    """

    label: nib.Nifti1Image | None = None
    vertebrae: nib.Nifti1Image | None = None
    image: nib.Nifti1Image | None = None
    attributes: Mapping[int, Mapping[str, object]] = field(default_factory=dict)


@dataclass
class SourceCase:
    """One scan of a source.

    Attributes:
        name: case, unique in the source.
        patient: patient; all scans of a patient are in one section of the split.
        image: CT file or folder.
        convert: conversion; None skips the case silently, an exception with a message.
        in_datalist: False for a mask without CT, which ``image`` then is.
        settings: text of all that the conversion of this case depends on; a finished case of other settings is converted again.
        masks: label maps that are read; a finished case of other content is converted again.
    """

    name: str
    patient: str
    image: Path
    convert: Callable[[], ConvertedCase | None]
    in_datalist: bool = True
    settings: str = ""
    masks: Sequence[Path] = ()

    def source(self) -> list[str]:
        """Identity of the source: size and time of the CT, and the content of the masks."""
        return [file_state(self.image), *map(content_hash, self.masks)]


def grid_mismatch(image: nib.Nifti1Image, mask: nib.Nifti1Image) -> str | None:
    """Difference of the grids of two volumes in words, or None when they are the same within ``AFFINE_TOLERANCE_MM``."""
    if image.shape[:3] != mask.shape[:3]:
        return f"mask has shape {mask.shape[:3]} and image {image.shape[:3]}"
    offset = grid_offset(image.shape[:3], image.affine, mask.affine)
    return f"mask is up to {offset:.2f} mm off its image" if offset > AFFINE_TOLERANCE_MM else None


def require_same_grid(path: Path | str, image: nib.Nifti1Image, mask: nib.Nifti1Image) -> None:
    """Refuse a mask whose grid differs from that of its image.

    Args:
        path: file to name in the message.
        image: CT.
        mask: label map.

    Raises:
        ValueError: when the grids differ.
    """
    if mismatch := grid_mismatch(image, mask):
        raise ValueError(f"{path}: {mismatch}; resample the mask to the grid of its image")


def map_labels(labels: NDArray[np.uint8], values: Mapping[int, int]) -> NDArray[np.uint8]:
    """Replace every label by its value; labels without a value become 0."""
    lookup = np.zeros(256, np.uint8)
    lookup[list(values)] = list(values.values())
    return lookup[labels]


def save_image(image: nib.Nifti1Image, path: Path) -> None:
    """Write a NIfTI image in mm; the file appears under its name only when it is complete."""
    image.header.set_xyzt_units("mm")
    with atomic_write(path) as temporary:
        nib.save(image, temporary)


def process_cases(
    process: Callable[[Case], Result],
    cases: Sequence[Case],
    source: Callable[[Case], Path | str],
    workers: int = 1,
    description: str = "cases",
    unit: str = "case",
) -> tuple[list[Result | None], list[str]]:
    """Apply a function to all cases in threads, with a progress bar; failures are printed and isolated per case.

    Args:
        process: function of one case.
        cases: arguments of ``process``.
        source: file of a case, for messages.
        workers: number of threads.
        description: title of the progress bar.
        unit: unit of the progress bar.

    Returns:
        Results in the order of the cases, None for those that failed, and one message per failure.
    """
    failures: dict[int, str] = {}

    def run(number: int) -> Result | None:
        try:
            return process(cases[number])
        except Exception as error:
            file, message = str(source(cases[number])), first_line(error)
            named = file in message or Path(message.partition(": ")[0]).exists()  # a mask or table of the case
            failures[number] = message if named else f"{file}: {message}"
            tqdm.write(f"skipped: {failures[number]}")
            return None

    with ThreadPoolExecutor(max(int(workers), 1)) as pool:
        results = list(tqdm(pool.map(run, range(len(cases))), total=len(cases), desc=description, unit=unit))
    return results, [failures[k] for k in sorted(failures)]


def _write_case(case: SourceCase, root: Path, record: Path, source: list[str]) -> dict:
    """Write the files of a case, and its record last, which marks it as finished."""
    converted = case.convert()
    record.unlink(missing_ok=True)  # of other settings, or of another source
    if converted is None:
        return {}
    files: dict[str, str] = {}
    for key, folder in (("image", "images"), ("label", "labels"), ("vertebrae", "vertebrae")):
        if (image := getattr(converted, key)) is not None:
            files[key] = f"{folder}/{case.name}.nii.gz"
            save_image(image, root / files[key])
    label, vertebrae = converted.label, converted.vertebrae
    content = {
        "files": files,
        "settings": case.settings,
        "source": source,
        "fractured": label is not None and bool((np.asarray(label.dataobj) == 1).any()),
        "rows": []
        if vertebrae is None
        else vertebra_rows(case.name, np.asarray(vertebrae.dataobj), vertebrae.affine, converted.attributes),
    }
    write_text(record, json.dumps(content) + "\n")
    return content


def begin_dataset(out: str | Path, settings: Mapping[str, object], written: Sequence[str] = OUTPUTS) -> None:
    """Store the settings of a data set.

    Args:
        out: folder of the set.
        settings: settings of all cases.
        written: files and folders that the set will have.

    Raises:
        InputError: when the folder has cases of other settings, or files of a set that was not begun by such a command.
    """
    root = Path(out)
    if root.exists() and not root.is_dir():
        raise InputError(f"{out}: is a file; choose a folder for --out")
    if not (root / "settings.json").is_file():
        refuse_files(root, written)
    ensure_same_settings(out, settings)


def refuse_files(root: Path, names: Sequence[str]) -> None:
    """Refuse a folder with files or folders of names that would be overwritten.

    Raises:
        InputError: for the first of them.
    """
    found = next((name for name in names if (root / name).exists()), None)
    if found is not None:
        raise InputError(f"--out {root}: its {found} is of another data set and would be overwritten; choose another folder")


def _finished_case(root: Path, record: Path, settings: str, source: list[str]) -> dict | None:
    """Record of a finished case, or None for one that is damaged, lacks a file, or has other settings or another source."""
    try:
        content = json.loads(record.read_text(encoding="utf-8"))
        is_old = "source" not in content  # before 0.24, when some had no settings either
        if content.get("settings", "") not in ((settings, "") if is_old else (settings,)):
            return None
        if not all((root / file).is_file() for file in content["files"].values()):
            return None
        if is_old:
            content |= {"source": source, "settings": settings}
            write_text(record, json.dumps(content) + "\n")
        return content if content["source"] == source else None
    except (OSError, ValueError, AttributeError, KeyError, TypeError):
        return None


def convert(
    cases: Sequence[SourceCase],
    out: str | Path,
    description: str,
    seed: int = 0,
    workers: int = 1,
    split: bool = True,
    skipped: int = 0,
) -> str:
    """Write ``labels/``, ``vertebrae/``, ``vertebrae.csv`` and ``datalist.json``; finished cases are kept.

    The datalist refers to CTs that need no conversion where they are. Masks without a CT are in ``masks.json``, all in the training
    section, as nothing can be tested on them.

    Args:
        cases: scans.
        out: folder to write to.
        description: text of the datalist.
        seed: seed of the split.
        workers: number of threads.
        split: False puts every case into the testing section.
        skipped: number of cases that could not be paired, and were reported before.

    Returns:
        Path of the datalist, or of masks.json when no case has a CT.

    Raises:
        InputError: when no case could be converted, or, after everything is written, when some could not.
    """
    root = Path(out).resolve()

    def process(case: SourceCase) -> dict:
        record, source = root / "cases" / f"{case.name}.json", case.source()
        return _finished_case(root, record, case.settings, source) or _write_case(case, root, record, source)

    results, failures = process_cases(process, cases, lambda case: case.image, workers)
    converted = [(c, r) for c, r in zip(cases, results, strict=True) if r]
    if not converted:
        raise InputError(failures[0] if failures else f"{out}: no case is left to write")
    rows = [row for _, r in converted for row in r["rows"]]
    if rows:
        write_vertebra_table(root / FILE_NAME, rows)
        states = Counter(str(row["fractured"]) for row in rows)
        print(f"{len(rows)} vertebrae: {states['1']} fractured, {states['0']} intact, {states['']} unknown")
    else:
        (root / FILE_NAME).unlink(missing_ok=True)  # of earlier settings
    labelled = [r for _, r in converted if "label" in r["files"]]
    if labelled and not any(r["fractured"] for r in labelled):
        print(
            f"warning: none of {len(labelled)} labels has a fracture; check the values of the masks and the grades", file=sys.stderr
        )
    masks = [{**r["files"], "patient": c.patient} for c, r in converted if not c.in_datalist]
    if masks:
        write_datalist(root / "masks.json", {"training": masks}, f"Masks without a CT. {description}")
    listed = [(c, r) for c, r in converted if c.in_datalist]
    if listed:
        entries = [{"image": os.path.relpath(c.image, root), **r["files"], "patient": c.patient} for c, r in listed]
        fractured = [r["fractured"] for _, r in listed]
        parts, sections_of = {"testing": list(range(len(entries)))}, None
        if split:
            parts, sections_of, line = continued_split(root / "datalist.json", [e["patient"] for e in entries], fractured, seed)
            if line:
                print(line)
        sections = {s: [entries[i] for i in part] for s, part in parts.items()}
        write_datalist(root / "datalist.json", sections, description, sections_of)
    path = root / ("datalist.json" if listed else "masks.json" if masks else FILE_NAME)
    if failures or skipped:
        total = len(cases) + skipped
        raise InputError(f"{len(failures) + skipped} of {total} cases were skipped, see above; the others are in {path}")
    return str(path)
