# SPDX-License-Identifier: Apache-2.0
"""Real CTs with vertebra instances as a part of a training set: for the outputs of vertebra and body, fractures ignored."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import nibabel as nib
import numpy as np

from ...core.errors import InputError, SkippedCasesError
from ...core.vertebrae import LABELS, LEVELS
from ...data.datalist import IGNORE_INDEX, SECTIONS, read_datalist, write_datalist
from ...data.datasets.conversion import begin_dataset, process_cases, require_same_grid, save_image
from ...data.vertebra_table import FILE_NAME, vertebra_rows, write_vertebra_table
from ...io.formats import stem
from ...io.label_maps import read_label_map
from .source_record import is_from, source_hash, write_source
from .writer import as_list


def _ignored_label(case: Mapping[str, str], path: Path) -> list[dict[str, object]]:
    """Write the label of a case, every vertebra with the ignore index, and return the rows of its vertebrae."""
    name, root, source = path.name.removesuffix(".nii.gz"), path.parents[1], source_hash(case, ["vertebrae"])
    vertebrae = read_label_map(Path(case["vertebrae"]))
    require_same_grid(case["image"], nib.load(case["image"]), vertebrae)
    labels = np.asarray(vertebrae.dataobj)
    inside = np.isin(labels, [v for v in LEVELS if v != LABELS["S1"]])
    if not inside.any():
        raise ValueError(f"{case['vertebrae']}: contains no vertebra; exclude the case")
    finished = path.is_file() and is_from(root, name, source)
    write_source(root, name, source)
    if not finished:
        path.unlink(missing_ok=True)
        save_image(nib.Nifti1Image(np.where(inside, IGNORE_INDEX, 0).astype(np.uint8), vertebrae.affine), path)
    return vertebra_rows(name, labels, vertebrae.affine, {})


def scans(datalist: str | Sequence[str], out: str, repeat: int = 1, workers: int = 1) -> str:
    """Make a training set of real CTs with vertebra instances that has no target for fractures.

    Real CTs make the outputs of vertebra and body robust; whether the vertebrae of a few patients are fractured would be learned
    by heart. Reads the cases of DATALIST with image and vertebrae (VerSe's labels, of CTSpine1K, TotalSegmentator or VerSe), and
    writes labels/ (255, ignore, in every vertebra), vertebrae.csv and datalist.json into OUT; images and vertebrae stay where
    they are. Every case stays in its section of the split. Failures are isolated per case; rerun the same command to resume.

    Args:
        datalist: one or more datalists with `image` and `vertebrae`; labels are not read.
        out: folder to write to.
        repeat: how often a case of the training section is drawn in an epoch.
        workers: number of threads.

    Returns:
        Path of the datalist.
    """
    if repeat < 1:
        raise InputError(f"repeat={repeat!r}: must be 1 or more")
    root = Path(out)
    read = [read_datalist(path) for path in as_list(datalist)]
    cases = [(s, case) for _, sections in read for s in SECTIONS for case in sections[s]]
    listed = [(s, case) for s, case in cases if "image" in case and "vertebrae" in case]
    sources = ", ".join(source.name for source, _ in read)
    if not listed:
        raise InputError(f"{datalist}: no case has `image` and `vertebrae`, a mask of vertebra instances in VerSe's labels; add it")
    begin_dataset(out, {"datalist": [str(source.resolve()) for source, _ in read]})
    names = [f"{stem(case['image'])}_{number:04d}" for number, (_, case) in enumerate(listed)]
    paths = [(root / "labels" / f"{name}.nii.gz").resolve() for name in names]
    tables, failures = process_cases(
        lambda k: _ignored_label(listed[k][1], paths[k]), range(len(listed)), lambda k: listed[k][1]["image"], workers
    )
    finished = [k for k, table in enumerate(tables) if table is not None]
    if not finished:
        raise InputError(f"{failures[0]}; no case is left")
    write_vertebra_table(root / FILE_NAME, [row for k in finished for row in tables[k] or []])
    merged: dict[str, list[dict[str, str]]] = {s: [] for s in SECTIONS}
    for k in finished:
        section, case = listed[k]
        keys = ("image", "vertebrae", "patient")
        merged[section] += [{**{n: case[n] for n in keys if n in case}, "label": str(paths[k])}] * (
            repeat if section == "training" else 1
        )
    path = root / "datalist.json"
    write_datalist(path, merged, f"CTs with vertebra instances of {sources}; fractures are ignored.")
    if failures:
        raise SkippedCasesError(f"{len(failures)} of {len(listed)} scans were skipped, see above; the others are in {root}")
    return str(path)
