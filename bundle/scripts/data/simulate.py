# SPDX-License-Identifier: Apache-2.0
"""Simulated fractures on any CT with vertebra instances: as a data set and as a transform in a training config."""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable, Mapping, Sequence
from pathlib import Path

import nibabel as nib
import numpy as np
import torch
from monai.config import KeysCollection
from monai.transforms import MapTransform, RandomizableTransform
from numpy.typing import NDArray
from tqdm import tqdm

from ..errors import InputError
from ..files import keep_settings, read_table, scan_stem, write_table
from .adapter import IGNORE, integer_labels, same_grid
from .datalist import SECTIONS, load_datalist, section_problem, write_datalist
from .fractured_scan import COLUMNS, add_fractures, save_image, vertebra_rows
from .genant import SHAPES
from .phantom import SpineScan

SHARE_TO_COUNT = 0.5  # share of a vertebra that must carry a mark in the old label for the vertebra to have it


def marked_vertebrae(labels: NDArray, mask: NDArray, mark: int) -> list[int]:
    """Vertebrae of which most voxels carry ``mark`` in a training label."""
    present, counts = np.unique(labels[labels > 0], return_counts=True)
    hits = np.bincount(labels[mask == mark].ravel(), minlength=256)
    return [int(v) for v, n in zip(present, counts, strict=True) if hits[v] > SHARE_TO_COUNT * n]


def training_label(
    scan: SpineScan, fractured: Sequence[int], unknown: Sequence[int], old: NDArray | None
) -> NDArray[np.uint8]:
    """Label of a simulated scan: 1 for new and old fractures, 255 where the old label did not know, 0 elsewhere."""
    mask = np.zeros(scan.labels.shape, np.uint8)
    if old is not None:
        mask[(old == IGNORE) & (scan.labels == 0)] = IGNORE
    mask[np.isin(scan.labels, list(unknown))] = IGNORE
    mask[np.isin(scan.labels, [*fractured, *(f["label"] for f in scan.fractures)])] = 1
    return mask


def _read(case: Mapping[str, str]) -> tuple[SpineScan, NDArray | None, nib.Nifti1Image]:
    image = nib.load(case["image"])
    vertebrae = integer_labels(Path(case["vertebrae"]))
    reason = same_grid(image, vertebrae)
    if reason:
        raise ValueError(f"{case['vertebrae']}: {reason}; resample the mask to the grid of the CT")
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
    stem = scan_stem(case["image"])
    return stem if stems[stem] == 1 else f"{case.get('patient', '')}_{stem}".strip("_")


def simulate(
    datalist: str,
    out: str,
    shapes: Sequence[str] | str = tuple(SHAPES),
    grades: Sequence[int] | int = (1, 2, 3),
    fractures: int = 3,
    healthy: float = 0.25,
    copies: int = 1,
    seed: int = 0,
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
        seed: the same seed gives the same data.

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
    if not Path(datalist).is_file():
        raise InputError(f"{datalist}: {section_problem(datalist, SECTIONS[0])}; give a datalist.json")
    sections = {s: load_datalist(datalist, s) for s in SECTIONS}
    work = [(s, case, k) for s in SECTIONS for case in sections[s] for k in range(copies)]
    if not any("vertebrae" in case for _, case, _ in work):
        raise InputError(
            f"{datalist}: no case names `vertebrae`, a mask of vertebra instances in VerSe's labels; add it"
        )
    # Sets that name every scan alike (ct.nii.gz in a folder per patient) are told apart by patient.
    stems = Counter(scan_stem(case["image"]) for _, case, copy in work if copy == 0)
    names = Counter(_case_name(case, stems) for _, case, copy in work if copy == 0)
    double = [n for n, count in names.items() if count > 1]
    if double:
        raise InputError(
            f"{datalist}: {names[double[0]]} cases are called {double[0]}; give each its own `patient` or file name"
        )
    keep_settings(
        out,
        {
            "datalist": str(Path(datalist).resolve()),
            "shapes": chosen,
            "grades": drawn,
            "fractures": fractures,
            "healthy": healthy,
            "copies": copies,
            "seed": seed,
        },
    )
    root = Path(out)
    rows: list[dict] = []
    done: dict[str, list[dict]] = {s: [] for s in SECTIONS}
    problems: list[str] = []
    for number, (section, case, copy) in enumerate(tqdm(work, desc="simulating", unit="scan")):
        stem = _case_name(case, stems) + (f"_{copy}" if copies > 1 else "")
        part = root / "vertebrae" / f"{stem}.csv"
        try:
            if "vertebrae" not in case:
                raise ValueError(f"{case['image']}: names no `vertebrae`; add the mask of vertebra instances")
            if not part.is_file():
                rng = np.random.default_rng([seed, number])
                wanted = (
                    0 if int((number + 1) * healthy) > int(number * healthy) else int(rng.integers(1, fractures + 1))
                )
                scan, old, image = _read(case)
                fractured = [] if old is None else marked_vertebrae(scan.labels, old, 1)
                unknown = [] if old is None else marked_vertebrae(scan.labels, old, IGNORE)
                scan = add_fractures(scan, rng, wanted, chosen, drawn, exclude=[*fractured, *unknown])
                mask = training_label(scan, fractured, unknown, old)
                for folder, array in (("images", scan.image), ("vertebrae", scan.labels), ("labels", mask)):
                    save_image(nib.Nifti1Image(array, image.affine), root / folder / f"{stem}.nii.gz")
                if wanted and not scan.fractures:
                    tqdm.write(
                        f"{case['image']}: no vertebra is whole and fine enough to be fractured; written unchanged"
                    )
                # Grades of old fractures and of unknown vertebrae are not this command's to state: blank, not 0.
                blank = {"grade": "", "shape": ""}
                table = [r | blank if r["label"] in (*fractured, *unknown) else r for r in vertebra_rows(stem, scan)]
                write_table(part, table, COLUMNS)  # last: it marks the case as finished
            rows.extend(read_table(part))
        except Exception as error:
            line = (str(error).strip().splitlines() or [type(error).__name__])[0]
            problems.append(line if case.get("image", "") in line else f"{case.get('image')}: {line}")
            tqdm.write(f"left out: {problems[-1]}")
            continue
        files = {
            k: f"{f}/{stem}.nii.gz" for k, f in (("image", "images"), ("label", "labels"), ("vertebrae", "vertebrae"))
        }
        done[section].append({**files, "patient": case.get("patient", stem)})
    if not any(done.values()):
        raise InputError(f"{problems[0]}; no case is left")
    write_table(root / "vertebrae.csv", rows, COLUMNS)
    write_datalist(root / "datalist.json", done, f"Simulated fractures on the scans of {Path(datalist).name}.")
    if problems:
        raise InputError(f"{len(problems)} of {len(work)} scans were left out, see above; the others are in {root}")
    return str(root / "datalist.json")


class RandSimulatedFractured(RandomizableTransform, MapTransform):
    """Fracture vertebrae on the fly, each time anew. Put it between loading and resampling, before any caching ends.

    Args:
        keys: key of the CT in HU, (1, X, Y, Z), with its affine.
        vertebrae_key: vertebra instances on the same grid, VerSe labels.
        label_key: training label to write; fractures and unknown voxels that it holds already are kept.
        prob: share of calls that add fractures.
        fractures: greatest number of new fractures.
        shapes: shapes to draw from.
        grades: Genant grades to draw from.
    """

    def __init__(
        self,
        keys: KeysCollection,
        vertebrae_key: str = "vertebrae",
        label_key: str = "label",
        prob: float = 0.75,
        fractures: int = 3,
        shapes: Sequence[str] = tuple(SHAPES),
        grades: Sequence[int] = (1, 2, 3),
    ) -> None:
        MapTransform.__init__(self, keys)
        RandomizableTransform.__init__(self, prob)
        self.vertebrae_key, self.label_key = vertebrae_key, label_key
        self.fractures, self.shapes, self.grades = fractures, tuple(shapes), tuple(grades)

    def __call__(self, data: Mapping[Hashable, torch.Tensor]) -> dict[Hashable, torch.Tensor]:
        """Return the items with the CT, the vertebrae and the label changed."""
        result = dict(data)
        self.randomize(None)
        key = self.keys[0]
        image, vertebrae = result[key], result[self.vertebrae_key]
        affine = np.asarray(image.affine, np.float64)  # type: ignore[attr-defined]
        labels = np.asarray(vertebrae)[0].astype(np.uint8)
        values = np.clip(np.round(np.asarray(image)[0]), -1024, 3071).astype(np.int16)
        old = np.asarray(result[self.label_key])[0] if self.label_key in result else None
        fractured = [] if old is None else marked_vertebrae(labels, old, 1)
        unknown = [] if old is None else marked_vertebrae(labels, old, IGNORE)
        scan = SpineScan(values, labels, affine)
        if self._do_transform:
            rng = np.random.default_rng(self.R.randint(2**31))
            wanted = int(rng.integers(1, self.fractures + 1))
            scan = add_fractures(scan, rng, wanted, self.shapes, self.grades, exclude=[*fractured, *unknown])
        mask = training_label(scan, fractured, unknown, old)
        like = result.get(self.label_key, vertebrae)
        for name, array, template in (
            (key, scan.image, image),
            (self.vertebrae_key, scan.labels, vertebrae),
            (self.label_key, mask, like),
        ):
            new = template.clone()
            new[0] = torch.as_tensor(array.astype(np.float32), dtype=new.dtype)
            result[name] = new
        return result
