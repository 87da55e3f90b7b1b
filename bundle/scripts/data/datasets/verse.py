# SPDX-License-Identifier: Apache-2.0
"""VerSe 2019 and 2020: vertebra masks joined with published Genant grades."""

from __future__ import annotations

import hashlib
import re
from functools import partial
from pathlib import Path

import nibabel as nib
import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import binary_dilation, generate_binary_structure

from ...core.errors import InputError
from ...core.files import ensure_same_settings
from ...core.vertebrae import spine_order
from .conversion import (
    IGNORE,
    ConvertedCase,
    SourceCase,
    convert,
    finish,
    fracture_mask,
    integer_labels,
    require_same_grid,
    table_rows,
)
from .grades import read_grades

FILE = re.compile(
    r"^(?P<case>sub-[A-Za-z]*\d+(?:_split-[A-Za-z]*\d+)?)(?:_dir-[A-Za-z]+)?_(?P<kind>ct|seg-vert_msk)\.nii(\.gz)?$"
)
CHALLENGE_FILE = re.compile(r"^verse\d+(_CT-[A-Za-z]+)?(_seg)?\.nii(\.gz)?$")
BONE_HU = 150.0
UNKNOWN = ("ignore", "background", "drop-case")
# Beyond these no fracturable vertebra follows, so that an unlabelled bone there is no unlabelled vertebra.
FIRST, LAST = (1,), (24, 25, 26)


def find_cases(source: str | Path) -> tuple[dict[str, Path], dict[str, Path]]:
    """Return CTs and masks below ``source`` by case name, whatever the tree: 2019 or 2020 naming, with or without ``dir-``."""
    found: dict[str, dict[str, Path]] = {"ct": {}, "seg-vert_msk": {}}
    for file in sorted(Path(source).rglob("*.nii*")):
        match = FILE.match(file.name)
        if match:
            kept = found[match["kind"]].setdefault(match["case"], file)
            if kept != file:
                print(f"{file}: second file of {match['case']}; {kept} is used")
    return found["ct"], found["seg-vert_msk"]


def unlabelled_bone(ct: nib.Nifti1Image, vertebrae: nib.Nifti1Image, reach_mm: float = 45.0) -> NDArray[np.bool_]:
    """Bone that may be a vertebra without a label: dense voxels near the spine above the first and below the last label.

    VerSe does not label vertebrae that the border of the scan cuts, so bone there is no background to be sure of.

    Args:
        ct: CT in HU.
        vertebrae: VerSe labels on the same grid.
        reach_mm: half width of the column around the outermost vertebra that is searched.

    Returns:
        Mask on the grid of the CT.
    """
    labels = np.asarray(vertebrae.dataobj)
    unsure = np.zeros(labels.shape, bool)
    present = [v for v in spine_order(labels) if v != 26]
    if not present:
        return unsure
    codes = nib.aff2axcodes(vertebrae.affine)
    axis = next(i for i, c in enumerate(codes) if c in "SI")
    upwards = codes[axis] == "S"
    spacing = np.linalg.norm(vertebrae.affine[:3, :3], axis=0)
    dense = np.asarray(ct.dataobj, np.float32) >= BONE_HU
    for label, up, last in ((present[0], True, FIRST), (present[-1], False, LAST)):
        if label in last or (not up and (labels == 26).any()):
            continue
        where = np.argwhere(labels == label)
        middle = where.mean(axis=0)
        box: list[slice] = []
        for i in range(3):
            if i == axis:
                # Half a vertebra of overlap: a cut neighbour lies beside the rim and the joints of the outermost one.
                centre = round(float(middle[i]))
                box.append(slice(centre, None) if up == upwards else slice(0, centre))
            else:
                half = reach_mm / spacing[i]
                box.append(slice(max(int(middle[i] - half), 0), int(middle[i] + half) + 1))
        unsure[tuple(box)] |= dense[tuple(box)]
    own = binary_dilation(labels > 0, generate_binary_structure(3, 1))
    return unsure & ~own


def verse(
    source: str,
    grades: str,
    out: str,
    min_grade: int = 1,
    unknown: str = "ignore",
    masks_only: bool = False,
    seed: int = 0,
    workers: int = 1,
) -> str:
    """Make a fracture data set from VerSe 2019 or 2020 and a table of Genant grades.

    Label 1 is every vertebra with a grade of at least MIN_GRADE, as a whole. Vertebrae without a grade, and dense bone beyond the
    outermost labelled vertebra (VerSe does not label vertebrae that the border cuts), get 255, which loss and metrics leave out.
    Writes labels/, vertebrae/, vertebrae.csv and datalist.json (70/10/20 by patient) into OUT; the CTs stay where they are. Cases
    that cannot be read are named and left out; running again goes on where it stopped.

    Args:
        source: folder with the downloaded VerSe tree, of any depth.
        grades: appendix E1 of Löffler et al. 2020, .xlsx as published or .csv.
        out: folder to write to.
        min_grade: smallest Genant grade that counts as a fracture.
        unknown: what an ungraded vertebra becomes: ignore, background or drop-case.
        masks_only: also convert masks that have no CT beside them, for the shapes of real fractures: they enter labels/,
            vertebrae/ and vertebrae.csv, not the datalist.
        seed: of the split.
        workers: scans at a time.

    Returns:
        Path of the datalist; of vertebrae.csv when there is no CT at all.
    """
    if not Path(source).is_dir():
        raise InputError(f"{source}: no such folder; give the folder that holds the VerSe tree")
    if unknown not in UNKNOWN:
        raise InputError(f"unknown={unknown!r}: give one of {', '.join(UNKNOWN)}")
    if min_grade not in (1, 2, 3):
        raise InputError(f"min_grade={min_grade!r}: give 1, 2 or 3")
    images, masks = find_cases(source)
    if not images and not masks:
        challenge = next((f for f in sorted(Path(source).rglob("verse*.nii*")) if CHALLENGE_FILE.match(f.name)), None)
        if challenge is not None:
            raise InputError(
                f"{challenge}: is named as in the MICCAI challenges, which the table of grades does not follow; "
                "download the subject based structure of VerSe (rawdata/, derivatives/)"
            )
        raise InputError(
            f"{source}: holds no file like sub-verse004_ct.nii.gz; give the folder that holds the VerSe tree"
        )
    table = read_grades(grades)
    alone = sorted(set(masks) - set(images))
    missing = (
        [] if masks_only else [f"{masks[c]}: has no CT beside it; left out (masks_only converts it)" for c in alone]
    )
    missing += [f"{images[c]}: has no mask of vertebrae; left out" for c in sorted(set(images) - set(masks))]
    both = sorted(set(images) & set(masks))
    wanted = sorted(set(masks)) if masks_only else both
    if not wanted:
        raise InputError(
            f"{source}: has {len(masks)} mask(s) and {len(images)} CT(s), but no case with both; complete the download"
            + (", or add --masks_only for the shapes alone" if masks else "")
        )
    if not any(c in table for c in wanted):
        raise InputError(
            f"{grades}: no row matches a case of {source} (first case there: {wanted[0]}); is it the right table?"
        )

    settings = {"source": str(Path(source).resolve()), "min_grade": min_grade, "unknown": unknown}
    # Of the grades in use, so that both forms of one table count as one.
    used = repr([(case, sorted(table[case].items())) for case in wanted if case in table])
    digest = hashlib.sha256(used.encode()).hexdigest()[:16]
    ensure_same_settings(out, {**settings, "masks_only": masks_only, "grades_sha256": digest})
    for line in missing:
        print(line)

    def make(case: str) -> ConvertedCase | None:
        vertebrae = integer_labels(masks[case])
        ct = require_same_grid(images[case], vertebrae) if case in images else None
        known = table.get(case, {})
        mask = fracture_mask(np.asarray(vertebrae.dataobj), known, min_grade, unknown)
        if mask is None:
            return None
        if unknown == "ignore" and ct is not None:
            mask[unlabelled_bone(ct, vertebrae) & (mask == 0)] = IGNORE
        label = nib.Nifti1Image(mask, vertebrae.affine)
        return ConvertedCase(label, vertebrae, rows=table_rows(case, vertebrae, known, min_grade))

    cases = [
        SourceCase(c, c.split("_")[0], images.get(c, masks[c]), partial(make, c), listed=c in images) for c in wanted
    ]
    path, problems = convert(cases, out, "VerSe with Genant grades; CC BY-SA 4.0.", seed, workers)
    return finish(path, problems, len(cases))
