# SPDX-License-Identifier: Apache-2.0
"""Data set of CTs rendered around real vertebra masks, with real and simulated fractures."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

import nibabel as nib
import numpy as np
from nibabel.processing import resample_to_output

from ...core.errors import InputError
from ...data.datalist import SECTIONS, read_datalist
from ...data.datasets.conversion import require_same_grid
from ...data.vertebra_table import FILE_NAME, rows_by_case, rows_of_entry
from ...io.formats import stem
from ...io.label_maps import read_label_map
from ..bone_surface import CORTICES, sample_surface
from ..fracture.labels import labelled_vertebrae, training_label
from ..fracture.sampling import add_fractures
from ..rendering import render_ct
from ..style import wide_style
from .source_record import source_hash
from .writer import GRADES, LabelledScan, SimulationCase, as_list, check_options, write_dataset

READ = ("vertebrae", "label")  # files of a case; its CT is not read
GENERATOR = 3  # raised with every change of the scan of a seed, so that folders of two generators are not mixed


def _render_case(
    case: Mapping[str, str],
    seed: Sequence[int],
    max_fractures: int,
    healthy: float,
    grades: Sequence[int],
    min_grade: int,
    noise: float | None,
    spacing: float | None = None,
    rows: Mapping[int, Mapping[str, str]] | None = None,
    cortex: str = CORTICES[0],
) -> LabelledScan:
    """Rendered scan of a case, with up to ``max_fractures`` simulated fractures."""
    case_rng = np.random.default_rng(seed)
    count = 0 if case_rng.random() < healthy else int(case_rng.integers(1, max_fractures + 1))
    scan_seed = int(case_rng.integers(2**31))
    mask = nib.as_closest_canonical(read_label_map(Path(case["vertebrae"])))
    labels = np.asarray(mask.dataobj).astype(np.uint8)
    source_label = None
    if case.get("label"):
        label = nib.as_closest_canonical(read_label_map(Path(case["label"])))
        require_same_grid(case["label"], label, mask)
        source_label = np.asarray(label.dataobj)
    fractured, ignored = labelled_vertebrae(labels, source_label)
    # A rendering shows the shape of a mask alone, and a fracture without a grade, as of RSNA, may have none.
    ungraded = [v for v in fractured if v in (rows or {}) and not (rows or {})[v].get("grade")]
    fractured, ignored = [v for v in fractured if v not in ungraded], [*ignored, *ungraded]
    rng = np.random.default_rng([scan_seed, 23])
    zooms = [float(z) for z in mask.header.get_zooms()[:3]]
    if spacing is not None and min(zooms) < 0.9 * spacing:
        mask = resample_to_output(nib.Nifti1Image(labels, mask.affine), [max(z, spacing) for z in zooms], order=0)
        labels = np.asarray(mask.dataobj).astype(np.uint8)
    affine = np.diag([*(float(z) for z in mask.header.get_zooms()[:3]), 1.0])
    affine[:3, 3] = mask.affine[:3, 3]
    style = wide_style(rng, "lumbar")
    if noise is not None:
        style = replace(style, noise=float(noise))
    scan = render_ct(labels, affine, style, scan_seed, surface=sample_surface(cortex, scan_seed))
    scan = add_fractures(scan, rng, count, grades=grades, exclude=[*fractured, *ignored])
    mild = [f["label"] for f in scan.fractures if f["grade"] < min_grade]
    return LabelledScan(scan, training_label(scan, fractured, [*ignored, *mild]), fractured, ignored, rows=rows or {})


def render(
    datalist: str,
    out: str,
    grades: Sequence[int] | int = GRADES,
    fractures: int = 3,
    healthy: float = 0.25,
    min_grade: int = 1,
    copies: int = 1,
    noise: float | None = None,
    spacing: float | None = None,
    cortex: str = CORTICES[0],
    seed: int = 0,
    workers: int = 1,
) -> str:
    """Render CTs around vertebra masks whose CT is missing or may not be used: real anatomy, random tissue.

    Reads the cases of DATALIST with vertebrae (their CT is not read), and writes images/, labels/, vertebrae/, vertebrae.csv and
    datalist.json into OUT. Real fractures of a label, and grades of a vertebrae.csv beside DATALIST, are kept; a fracture that it
    lists without a grade becomes 255, as it need not change the shape. Every case stays in its section of the split. Failures are
    isolated per case; rerun the same command to resume.

    Args:
        datalist: datalist with `vertebrae` (VerSe's labels), and `label` where fractures are labelled.
        out: folder to write to.
        grades: Genant grades of the simulated fractures to sample from.
        fractures: maximum number of simulated fractures in a scan.
        healthy: fraction of the copies without simulated fracture.
        min_grade: simulated fractures below this grade have the ignore index 255.
        copies: scans rendered from each mask, in different styles.
        noise: standard deviation of the noise in HU, 0 for data whose training adds noise; that of the style when not given.
        spacing: voxel size in mm to which finer masks are resampled; that of the mask when not given.
        cortex: thin, a thin cortex at the surface of the masks; thick, as measured in real CT.
        seed: seed of the set, which does not depend on the number of workers.
        workers: number of threads.

    Returns:
        Path of the datalist.
    """
    grades = as_list(grades)
    settings = {"grades": grades, "fractures": fractures, "healthy": healthy, "min_grade": min_grade, "copies": copies}
    check_options(
        {**settings, "noise": noise, "spacing": spacing, "cortex": cortex, "seed": seed},
        {
            "cortex": (cortex in CORTICES, f"one of {', '.join(CORTICES)}"),
            "grades": (bool(grades) and set(grades) <= set(GRADES), "among 1, 2, 3"),
            "fractures": (fractures >= 1, "1 or more"),
            "healthy": (0 <= healthy <= 1, "a fraction from 0 to 1"),
            "min_grade": (min_grade in GRADES, "1, 2 or 3"),
            "copies": (copies >= 1, "1 or more"),
            "seed": (seed >= 0, "0 or more"),
            "noise": (noise is None or noise >= 0, "0 or more HU"),
            "spacing": (spacing is None or spacing > 0, "more than 0 mm"),
        },
    )
    source, sections = read_datalist(datalist)
    masks = [(section, case) for section in SECTIONS for case in sections[section] if "vertebrae" in case]
    if not masks:
        raise InputError(f"{source}: no case has `vertebrae`, a mask of vertebra instances in VerSe's labels; add it")
    table = source.with_name(FILE_NAME)
    rows = rows_by_case(table if table.is_file() else None)
    cases: list[SimulationCase] = []
    for number, (section, case) in enumerate(masks):
        for copy in range(copies):
            person = case.get("patient") or stem(case["vertebrae"])
            name, of_case = f"{person}_{number:04d}_{copy}", rows_of_entry(rows, case)
            make = partial(
                _render_case, case, [seed, len(cases)], fractures, healthy, grades, min_grade, noise, spacing, of_case, cortex
            )
            patient, digest = case.get("patient") or f"{person}_{number:04d}", partial(source_hash, case, READ, of_case)
            cases.append(SimulationCase(name, case["vertebrae"], make, patient, section, digest))
    # Options of None, and a thin cortex, are also those of folders made before them, which therefore resume.
    settings = {"datalist": str(source.resolve()), **settings, "seed": seed, "noise": noise, "spacing": spacing}
    settings |= {"cortex": None if cortex == CORTICES[0] else cortex, "generator": GENERATOR}
    description = f"CTs rendered around the vertebra masks of {source.name}."
    return write_dataset(cases, out, settings, description, workers=workers, progress="rendering")
