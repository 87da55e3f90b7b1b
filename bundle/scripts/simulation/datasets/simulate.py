# SPDX-License-Identifier: Apache-2.0
"""Data set of simulated fractures in CTs with vertebra instances."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path

import nibabel as nib
import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from ...core.errors import InputError
from ...core.genant import SHAPES
from ...data.datalist import SECTIONS, read_datalist
from ...data.datasets.conversion import require_same_grid
from ...data.vertebra_table import FILE_NAME, rows_by_case, rows_of_entry
from ...io.formats import stem
from ...io.image_checks import volume_shape
from ...io.label_maps import read_label_map
from ..fracture.disc_visibility import MAX_DISC_HU
from ..fracture.labels import labelled_vertebrae, training_label
from ..fracture.sampling import add_fractures
from ..spine_scan import SpineScan, to_hu
from .source_record import source_hash
from .writer import GRADES, LabelledScan, SimulationCase, as_list, check_options, write_dataset

GENERATOR = 4  # raised with every change of the scan of a seed, so that folders of two generators are not mixed
READ = ("image", "vertebrae", "label")


def _read(case: Mapping[str, str]) -> tuple[SpineScan, NDArray | None]:
    """CT with vertebra instances, and its training label where there is one."""
    image = nib.load(case["image"])
    if "vertebrae" not in case:
        raise ValueError(f"{case['image']}: has no `vertebrae` in the datalist; add the mask of vertebra instances")
    vertebrae = read_label_map(Path(case["vertebrae"]))
    require_same_grid(case["vertebrae"], image, vertebrae)
    values = np.asarray(image.dataobj, np.float32).reshape(volume_shape(image.shape))
    if not np.all(np.isfinite(values)):
        raise ValueError(f"{case['image']}: contains NaN or infinite values; replace them by -1024 (air) or exclude the case")
    if values.min() >= 0 and values.max() <= 255:
        raise ValueError(f"{case['image']}: values from {values.min():g} to {values.max():g} are not those of a CT; expected HU")
    scan = SpineScan(to_hu(values), np.asarray(vertebrae.dataobj), image.affine)
    if not case.get("label"):
        return scan, None
    label = read_label_map(Path(case["label"]))
    require_same_grid(case["label"], image, label)
    return scan, np.asarray(label.dataobj)


def _simulate_case(
    case: Mapping[str, str],
    seed: Sequence[int],
    max_fractures: int,
    shapes: Sequence[str],
    grades: Sequence[int],
    rows: Mapping[int, Mapping[str, str]],
) -> LabelledScan:
    """Scan of a case with 1 to ``max_fractures`` simulated fractures, or with none when ``max_fractures`` is 0."""
    rng = np.random.default_rng(seed)
    count = int(rng.integers(1, max_fractures + 1)) if max_fractures else 0
    scan, source_label = _read(case)
    fractured, ignored = labelled_vertebrae(scan.labels, source_label)
    scan = add_fractures(scan, rng, count, shapes, grades, exclude=[*fractured, *ignored], visible_discs=True)
    if count and not scan.fractures:
        tqdm.write(
            f"{case['image']}: written without a new fracture; no vertebra is complete, sampled finely enough "
            f"and between discs of at most {MAX_DISC_HU:.0f} HU; use thinner slices"
        )
    return LabelledScan(scan, training_label(scan, fractured, ignored, source_label), fractured, ignored, rows=rows)


def _case_names(cases: Sequence[Mapping[str, str]], source: Path) -> list[str]:
    """Names of the cases from their image files; images of the same name are distinguished by patient.

    Raises:
        InputError: when two cases have the same name and patient.
    """
    stems = [stem(case["image"]) for case in cases]
    names = [
        name if stems.count(name) == 1 else f"{case.get('patient', '')}_{name}".strip("_")
        for name, case in zip(stems, cases, strict=True)
    ]
    name, count = Counter(names).most_common(1)[0]
    if count > 1:
        raise InputError(f"{source}: {count} cases are called {name}; each must have its own `patient` or file name")
    return names


def simulate(
    datalist: str,
    out: str,
    shapes: Sequence[str] | str = tuple(SHAPES),
    grades: Sequence[int] | int = GRADES,
    fractures: int = 3,
    healthy: float = 0.25,
    copies: int = 1,
    seed: int = 0,
    workers: int = 1,
) -> str:
    """Simulate fractures in CTs that have vertebra instances.

    Reads the cases of DATALIST with image and vertebrae, fractures vertebrae that are complete in the scan, and writes images/,
    labels/, vertebrae/, vertebrae.csv and datalist.json into OUT. Every case stays in its section of the split. Fractures and the
    ignore index of an existing label are kept, and so are the grades of a vertebrae.csv beside DATALIST. Failures are isolated per
    case; rerun the same command to resume.

    Args:
        datalist: datalist with `image` and `vertebrae` (and `label`, if there is one), as the other commands write it.
        out: folder to write to.
        shapes: shapes to sample from: wedge, biconcave, crush.
        grades: Genant grades to sample from; a repeated grade is more likely.
        fractures: maximum number of new fractures in a scan.
        healthy: fraction of the copies without new fracture.
        copies: scans generated from each case.
        seed: seed of the set, which does not depend on the number of workers.
        workers: number of threads.

    Returns:
        Path of the datalist.
    """
    shapes, grades = [str(s) for s in as_list(shapes)], as_list(grades)
    settings = {"shapes": shapes, "grades": grades, "fractures": fractures, "healthy": healthy, "copies": copies}
    check_options(
        {**settings, "seed": seed},
        {
            "shapes": (bool(shapes) and set(shapes) <= set(SHAPES), f"among {', '.join(SHAPES)}"),
            "grades": (bool(grades) and set(grades) <= set(GRADES), "among 1, 2, 3"),
            "fractures": (fractures >= 1, "1 or more"),
            "healthy": (0 <= healthy < 1, "a fraction of at least 0 and below 1"),
            "copies": (copies >= 1, "1 or more"),
            "seed": (seed >= 0, "0 or more"),
        },
    )
    source, sections = read_datalist(datalist)
    scans = [(section, case) for section in SECTIONS for case in sections[section] if "image" in case]
    if not scans:
        raise InputError(f"{source}: no case has `image`, a CT; `data render` makes CTs around masks alone")
    if not any("vertebrae" in case for _, case in scans):
        raise InputError(f"{source}: no case has `vertebrae`, a mask of vertebra instances in VerSe's labels; add it")
    names = _case_names([case for _, case in scans], source)
    table = source.with_name(FILE_NAME)
    rows = rows_by_case(table if table.is_file() else None)
    cases: list[SimulationCase] = []
    for (section, case), name in zip(scans, names, strict=True):
        for copy in range(copies):
            k = len(cases)
            intact = int((k + 1) * healthy) > int(k * healthy)
            of_case = rows_of_entry(rows, case)
            make = partial(_simulate_case, case, [seed, k], 0 if intact else fractures, shapes, grades, of_case)
            name_of_copy = f"{name}_{copy}" if copies > 1 else name
            patient, digest = case.get("patient") or name, partial(source_hash, case, READ, of_case)
            cases.append(SimulationCase(name_of_copy, case["image"], make, patient, section, digest))
    settings = {"datalist": str(source.resolve()), **settings, "seed": seed, "generator": GENERATOR}
    return write_dataset(cases, out, settings, f"Simulated fractures on the scans of {source.name}.", workers=workers)
