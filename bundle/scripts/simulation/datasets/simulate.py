# SPDX-License-Identifier: Apache-2.0
"""A data set of simulated fractures on any CT with vertebra instances."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path

import nibabel as nib
import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from ...core.errors import InputError
from ...core.files import ensure_same_settings
from ...core.genant import SHAPES
from ...core.vertebrae import voxels_per_label
from ...data.datalist import IGNORE_INDEX, SECTIONS, read_datalist, write_datalist
from ...data.datasets.conversion import process_cases, require_same_grid, save_image
from ...data.vertebra_table import read_vertebra_table, write_vertebra_table
from ...io.formats import stem
from ...io.label_maps import read_label_map
from ..fracture.sampling import add_fractures, scan_rows
from ..spine_scan import SpineScan

FOLDERS = {"image": "images", "label": "labels", "vertebrae": "vertebrae"}
SHARE_TO_COUNT = 0.5  # share of a vertebra that must carry a mark in the old label for the vertebra to have it


def marked_vertebrae(labels: NDArray, mask: NDArray, mark: int) -> list[int]:
    """Vertebrae of which most voxels carry ``mark`` in a training label."""
    hits = np.bincount(labels[mask == mark].ravel(), minlength=256)
    return [v for v, n in voxels_per_label(labels).items() if hits[v] > SHARE_TO_COUNT * n]


def training_label(
    scan: SpineScan, fractured: Sequence[int], unknown: Sequence[int], old: NDArray | None
) -> NDArray[np.uint8]:
    """Label of a simulated scan: 1 for new and old fractures, 255 where the old label did not know, 0 elsewhere."""
    mask = np.zeros(scan.labels.shape, np.uint8)
    if old is not None:
        mask[(old == IGNORE_INDEX) & (scan.labels == 0)] = IGNORE_INDEX
    mask[np.isin(scan.labels, list(unknown))] = IGNORE_INDEX
    mask[np.isin(scan.labels, [*fractured, *(f["label"] for f in scan.fractures)])] = 1
    return mask


def _read(case: Mapping[str, str]) -> tuple[SpineScan, NDArray | None, nib.Nifti1Image]:
    image = nib.load(case["image"])
    vertebrae = read_label_map(Path(case["vertebrae"]))
    require_same_grid(case["vertebrae"], image, vertebrae)
    values = np.asarray(image.dataobj, np.float32)
    if not np.all(np.isfinite(values)):
        raise ValueError(
            f"{case['image']}: holds NaN or infinite values; replace them by -1024 (air) or leave the case out"
        )
    if values.min() >= 0 and values.max() <= 255:
        raise ValueError(f"{case['image']}: values from {values.min():g} to {values.max():g} are no CT; give HU")
    old = np.asarray(nib.load(case["label"]).dataobj) if case.get("label") else None
    scan = SpineScan(
        np.clip(np.round(values), -1024, 3071).astype(np.int16), np.asarray(vertebrae.dataobj), image.affine
    )
    return scan, old, image


def _case_name(case: Mapping[str, str], stems: Mapping[str, int]) -> str:
    name = stem(case["image"])
    return name if stems[name] == 1 else f"{case.get('patient', '')}_{name}".strip("_")


def _simulate_case(
    case: Mapping[str, str],
    root: Path,
    case_name: str,
    part: Path,
    rng: np.random.Generator,
    wanted: int,
    shapes: Sequence[str],
    grades: Sequence[int],
) -> None:
    """Write one simulated scan; its table comes last and marks it as finished."""
    scan, old, image = _read(case)
    fractured = [] if old is None else marked_vertebrae(scan.labels, old, 1)
    unknown = [] if old is None else marked_vertebrae(scan.labels, old, IGNORE_INDEX)
    scan = add_fractures(scan, rng, wanted, shapes, grades, exclude=[*fractured, *unknown])
    arrays = {
        "image": scan.image,
        "label": training_label(scan, fractured, unknown, old),
        "vertebrae": scan.labels,
    }
    for name, array in arrays.items():
        save_image(nib.Nifti1Image(array, image.affine), root / FOLDERS[name] / f"{case_name}.nii.gz")
    if wanted and not scan.fractures:
        tqdm.write(f"{case['image']}: no vertebra is whole and fine enough to be fractured; written unchanged")
    write_vertebra_table(part, scan_rows(case_name, scan, fractured, unknown))


def simulate(
    datalist: str,
    out: str,
    shapes: Sequence[str] | str = tuple(SHAPES),
    grades: Sequence[int] | int = (1, 2, 3),
    fractures: int = 3,
    healthy: float = 0.25,
    copies: int = 1,
    seed: int = 0,
    workers: int = 1,
) -> str:
    """Make simulated fractures in CTs that have vertebra instances.

    Reads the cases of DATALIST that name an image and vertebrae, fractures vertebrae that the scan shows whole, and writes images/,
    labels/, vertebrae/, vertebrae.csv and datalist.json into OUT. A case stays in its section of the split. Fractures and unknown
    voxels of an old label are kept. Cases that fail are named and left out; running again goes on where it stopped.

    Args:
        datalist: datalist with `image` and `vertebrae` (and `label`, if there is one), as the other commands write it.
        out: folder to write to.
        shapes: shapes to draw from: wedge, biconcave, crush.
        grades: Genant grades to draw from; repeat one to make it likelier.
        fractures: greatest number of new fractures in a scan; at least one is aimed at.
        healthy: share of copies without a new fracture.
        copies: scans made of each case.
        seed: the same seed gives the same data, whatever the number of workers.
        workers: scans at a time.

    Returns:
        Path of the datalist.
    """
    chosen = [shapes] if isinstance(shapes, str) else [str(s) for s in shapes]
    drawn = [grades] if isinstance(grades, int) else list(grades)
    for name, ok, remedy in (
        (f"shapes={shapes!r}", bool(chosen) and set(chosen) <= set(SHAPES), f"give some of {', '.join(SHAPES)}"),
        (f"grades={grades!r}", bool(drawn) and set(drawn) <= {1, 2, 3}, "give some of 1, 2, 3"),
        (f"fractures={fractures!r}", fractures >= 1, "give 1 or more"),
        (f"healthy={healthy!r}", 0 <= healthy < 1, "give a share of at least 0 and below 1"),
        (f"copies={copies!r}", copies >= 1, "give 1 or more"),
    ):
        if not ok:
            raise InputError(f"{name}: {remedy}")
    source, sections = read_datalist(datalist)
    work = [(s, case, k) for s in SECTIONS for case in sections[s] for k in range(copies)]
    if not any("vertebrae" in case for _, case, _ in work):
        raise InputError(f"{source}: no case names `vertebrae`, a mask of vertebra instances in VerSe's labels; add it")
    # Sets that name every scan alike (ct.nii.gz in a folder per patient) are told apart by patient.
    stems = Counter(stem(case["image"]) for _, case, copy in work if copy == 0)
    names = Counter(_case_name(case, stems) for _, case, copy in work if copy == 0)
    double = [n for n, count in names.items() if count > 1]
    if double:
        raise InputError(
            f"{source}: {names[double[0]]} cases are called {double[0]}; give each its own `patient` or file name"
        )
    ensure_same_settings(
        out,
        {
            "datalist": str(source.resolve()),
            "shapes": chosen,
            "grades": drawn,
            "fractures": fractures,
            "healthy": healthy,
            "copies": copies,
            "seed": seed,
        },
    )
    root = Path(out)

    def make(job: tuple[int, tuple[str, Mapping[str, str], int]]) -> dict:
        number, (_, case, copy) = job
        case_name = _case_name(case, stems) + (f"_{copy}" if copies > 1 else "")
        part = root / "vertebrae" / f"{case_name}.csv"
        if "vertebrae" not in case:
            raise ValueError(f"{case['image']}: names no `vertebrae`; add the mask of vertebra instances")
        if not part.is_file():
            share = int((number + 1) * healthy) > int(number * healthy)
            rng = np.random.default_rng([seed, number])
            wanted = 0 if share else int(rng.integers(1, fractures + 1))
            _simulate_case(case, root, case_name, part, rng, wanted, chosen, drawn)
        files = {f: f"{d}/{case_name}.nii.gz" for f, d in FOLDERS.items()}
        return {"entry": {**files, "patient": case.get("patient", case_name)}, "rows": read_vertebra_table(part)}

    results, problems = process_cases(
        make, list(enumerate(work)), lambda job: job[1][1].get("image", "a case"), workers, "simulating", "scan"
    )
    done: dict[str, list[dict]] = {s: [] for s in SECTIONS}
    rows: list[dict] = []
    for (section, _, _), result in zip(work, results, strict=True):
        if isinstance(result, dict):
            done[section].append(result["entry"])
            rows.extend(result["rows"])
    if not any(done.values()):
        raise InputError(f"{problems[0]}; no case is left")
    write_vertebra_table(root / "vertebrae.csv", rows)
    write_datalist(root / "datalist.json", done, f"Simulated fractures on the scans of {source.name}.")
    if problems:
        raise InputError(f"{len(problems)} of {len(work)} scans were left out, see above; the others are in {root}")
    return str(root / "datalist.json")
