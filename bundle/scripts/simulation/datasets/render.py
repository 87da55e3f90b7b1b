# SPDX-License-Identifier: Apache-2.0
"""A data set of CTs drawn around real vertebra masks, with simulated fractures beside the real ones."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import nibabel as nib
import numpy as np

from ...core.errors import InputError
from ...core.files import ensure_same_settings
from ...data.datalist import IGNORE_INDEX, SECTIONS, read_datalist, write_datalist
from ...data.datasets.conversion import process_cases, save_image
from ...data.vertebra_table import read_vertebra_table, write_vertebra_table
from ...io.formats import stem
from ...io.label_maps import read_label_map
from ..fracture.sampling import add_fractures, scan_rows
from ..rendering import render_ct
from ..style import wide_style
from .simulate import FOLDERS, marked_vertebrae, training_label


@dataclass(frozen=True)
class Wanted:
    """What is made of a mask: number of new fractures, their grades, the grade from which a fracture counts, and the seed."""

    fractures: int
    grades: Sequence[int]
    min_grade: int
    seed: int


def _render_case(case: Mapping[str, str], root: Path, name: str, wanted: Wanted) -> None:
    """Write one rendered scan; its table comes last and marks it as finished."""
    mask = nib.as_closest_canonical(read_label_map(Path(case["vertebrae"])))
    labels = np.asarray(mask.dataobj).astype(np.uint8)
    old = None
    if case.get("label"):
        old = np.asarray(nib.as_closest_canonical(nib.load(case["label"])).dataobj)
        if old.shape != labels.shape:
            raise ValueError(f"{case['label']}: its grid differs from that of {case['vertebrae']}; resample it")
    fractured = [] if old is None else marked_vertebrae(labels, old, 1)
    unknown = [] if old is None else marked_vertebrae(labels, old, IGNORE_INDEX)
    rng = np.random.default_rng([wanted.seed, 23])
    affine = np.diag([*(float(z) for z in mask.header.get_zooms()[:3]), 1.0])
    affine[:3, 3] = mask.affine[:3, 3]
    scan = render_ct(labels, affine, wide_style(rng, "lumbar"), wanted.seed)
    scan = add_fractures(scan, rng, wanted.fractures, grades=wanted.grades, exclude=[*fractured, *unknown])
    label = training_label(scan, fractured, unknown, None)
    small = [f["label"] for f in scan.fractures if f["grade"] < wanted.min_grade]
    label[np.isin(scan.labels, small)] = IGNORE_INDEX
    for key, array in (("image", scan.image), ("label", label), ("vertebrae", scan.labels)):
        save_image(nib.Nifti1Image(array, scan.affine), root / FOLDERS[key] / f"{name}.nii.gz")
    write_vertebra_table(root / "vertebrae" / f"{name}.csv", scan_rows(name, scan, fractured, unknown))


def render(
    datalist: str,
    out: str,
    grades: Sequence[int] | int = (1, 2, 3),
    fractures: int = 3,
    healthy: float = 0.25,
    min_grade: int = 1,
    copies: int = 1,
    seed: int = 0,
    workers: int = 1,
) -> str:
    """Draw CTs around vertebra masks: true shapes, random tissue. For masks without a CT, or whose CT may not be used.

    Reads the cases of DATALIST that name vertebrae (their CT is not read), and writes images/, labels/, vertebrae/, vertebrae.csv
    and datalist.json into OUT. Real fractures that a label marks stay. A case stays in its section of the split. Cases
    that fail are named and left out; running again goes on where it stopped.

    Args:
        datalist: datalist with `vertebrae` (VerSe's labels), and `label` where fractures are known.
        out: folder to write to.
        grades: Genant grades of the simulated fractures to draw from.
        fractures: greatest number of simulated fractures in a scan.
        healthy: share of copies without a simulated fracture.
        min_grade: simulated fractures below this grade become 255, unknown.
        copies: scans drawn of each mask, each in a style of its own.
        seed: the same seed gives the same data, whatever the number of workers.
        workers: scans at a time.

    Returns:
        Path of the datalist.
    """
    kinds = [grades] if isinstance(grades, int) else list(grades)
    for name, ok, remedy in (
        (f"grades={grades!r}", bool(kinds) and set(kinds) <= {1, 2, 3}, "give some of 1, 2, 3"),
        (f"fractures={fractures!r}", fractures >= 1, "give 1 or more"),
        (f"healthy={healthy!r}", 0 <= healthy <= 1, "give a share from 0 to 1"),
        (f"min_grade={min_grade!r}", min_grade in (1, 2, 3), "give 1, 2 or 3"),
        (f"copies={copies!r}", copies >= 1, "give 1 or more"),
    ):
        if not ok:
            raise InputError(f"{name}: {remedy}")
    source, sections = read_datalist(datalist)
    work = [(s, case, k) for s in SECTIONS for case in sections[s] if "vertebrae" in case for k in range(copies)]
    if not work:
        raise InputError(f"{source}: no case names `vertebrae`, a mask of vertebra instances in VerSe's labels; add it")
    settings = {"datalist": str(source.resolve()), "grades": kinds, "fractures": fractures, "healthy": healthy}
    ensure_same_settings(out, settings | {"min_grade": min_grade, "copies": copies, "seed": seed})
    root = Path(out)

    def make(job: tuple[int, tuple[str, Mapping[str, str], int]]) -> dict:
        number, (_, case, copy) = job
        name = f"{case.get('patient') or stem(case['vertebrae'])}_{number // copies:04d}_{copy}"
        part = root / "vertebrae" / f"{name}.csv"
        if not part.is_file():
            rng = np.random.default_rng([seed, number])
            count = 0 if rng.random() < healthy else int(rng.integers(1, fractures + 1))
            _render_case(case, root, name, Wanted(count, kinds, min_grade, int(rng.integers(2**31))))
        files = {f: f"{d}/{name}.nii.gz" for f, d in FOLDERS.items()}
        return {"entry": {**files, "patient": case.get("patient", name)}, "rows": read_vertebra_table(part)}

    results, problems = process_cases(
        make, list(enumerate(work)), lambda job: job[1][1]["vertebrae"], workers, "rendering", "scan"
    )
    done: dict[str, list[dict]] = {s: [] for s in SECTIONS}
    rows: list[dict] = []
    for (section, _, _), result in zip(work, results, strict=True):
        if isinstance(result, dict):
            done[section].append(result["entry"])
            rows.extend(result["rows"])
    if not any(done.values()):
        raise InputError(f"{problems[0]}; no mask is left")
    write_vertebra_table(root / "vertebrae.csv", rows)
    write_datalist(root / "datalist.json", done, f"CTs drawn around the vertebra masks of {source.name}.")
    if problems:
        raise InputError(f"{len(problems)} of {len(work)} masks were left out, see above; the others are in {root}")
    return str(root / "datalist.json")
