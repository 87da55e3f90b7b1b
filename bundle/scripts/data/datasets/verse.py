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
from ...core.geometry import spacing_of
from ...core.vertebrae import spine_order
from ...io.label_maps import read_label_map
from ..datalist import IGNORE_INDEX
from .conversion import ConvertedCase, SourceCase, begin_dataset, convert, require_same_grid
from .grades import SACRUM, fracture_mask, grade_attributes, read_grades

FILE = re.compile(r"^(?P<case>sub-[A-Za-z]*\d+(?:_split-[A-Za-z]*\d+)?)(?:_dir-[A-Za-z]+)?_(?P<kind>ct|seg-vert_msk)\.nii(\.gz)?$")
CHALLENGE_FILE = re.compile(r"^verse\d+(_CT-[A-Za-z]+)?(_seg)?\.nii(\.gz)?$")
BONE_HU = 150.0
UNKNOWN = ("ignore", "background", "drop-case")
# Bone beyond these is not an unlabelled vertebra: C1 is the first, and only the sacrum follows L5 and L6.
UPPERMOST, LOWERMOST = (1,), (24, 25, SACRUM)


def find_cases(source: str | Path) -> tuple[dict[str, Path], dict[str, Path]]:
    """CTs and masks below ``source`` by case name, at any depth: naming of 2019 or 2020, with or without ``dir-``."""
    files: dict[str, dict[str, Path]] = {"ct": {}, "seg-vert_msk": {}}
    for file in sorted(Path(source).rglob("*.nii*")):
        if match := FILE.match(file.name):
            first = files[match["kind"]].setdefault(match["case"], file)
            if first != file:
                print(f"{file}: is a second file of case {match['case']}; {first} is used")
    return files["ct"], files["seg-vert_msk"]


def require_cases(root: Path) -> tuple[dict[str, Path], dict[str, Path]]:
    """CTs and masks of ``find_cases``.

    Raises:
        InputError: when there is none, with the reason where files are named otherwise.
    """
    images, masks = find_cases(root)
    if not images and not masks:
        challenge = next((f for f in sorted(root.rglob("verse*.nii*")) if CHALLENGE_FILE.match(f.name)), None)
        if challenge is not None:
            raise InputError(
                f"{challenge}: is named as in the MICCAI challenges, which the table of grades does not follow; "
                "download the subject based structure of VerSe (rawdata/, derivatives/)"
            )
        raise InputError(f"{root}: contains no file like sub-verse004_ct.nii.gz; expected the folder of the VerSe tree")
    return images, masks


def unlabelled_bone(ct: nib.Nifti1Image, vertebrae: nib.Nifti1Image, radius_mm: float = 45.0) -> NDArray[np.bool_]:
    """Bone that may be an unlabelled vertebra: dense voxels near the spine above the first and below the last label.

    VerSe does not label vertebrae that the border of the scan cuts, so bone there is not reliably background.

    Args:
        ct: CT in HU.
        vertebrae: VerSe labels on the same grid.
        radius_mm: half width of the searched column around the outermost vertebra.

    Returns:
        Mask (X, Y, Z) on the grid of the CT.
    """
    labels = np.asarray(vertebrae.dataobj)
    candidates = np.zeros(labels.shape, bool)
    present = [v for v in spine_order(labels) if v != SACRUM]
    if not present:
        return candidates
    codes = nib.aff2axcodes(vertebrae.affine)
    axis = next(i for i, c in enumerate(codes) if c in "SI")
    spacing = spacing_of(vertebrae.affine)
    dense = np.asarray(ct.dataobj, np.float32) >= BONE_HU
    for label, cranial, without_neighbour in ((present[0], True, UPPERMOST), (present[-1], False, LOWERMOST)):
        if label in without_neighbour or (not cranial and (labels == SACRUM).any()):
            continue
        centre = np.argwhere(labels == label).mean(axis=0)
        box: list[slice] = []
        for i in range(3):
            if i == axis:
                # Half a vertebra of overlap: a cut neighbour lies beside the rim and the joints of the outermost one.
                middle = round(float(centre[i]))
                box.append(slice(middle, None) if cranial == (codes[axis] == "S") else slice(0, middle))
            else:
                half = radius_mm / spacing[i]
                box.append(slice(max(int(centre[i] - half), 0), int(centre[i] + half) + 1))
        candidates[tuple(box)] |= dense[tuple(box)]
    return candidates & ~binary_dilation(labels > 0, generate_binary_structure(3, 1))


def verse(
    source: str,
    out: str,
    grades: str | None = None,
    min_grade: int = 1,
    unknown: str = "ignore",
    masks_only: bool = False,
    seed: int = 0,
    workers: int = 1,
) -> str:
    """Make a fracture data set from VerSe 2019 or 2020, or another set in its layout, and a table of Genant grades.

    Label 1 is every vertebra with a grade of at least MIN_GRADE, as a whole. Vertebrae without a grade, and dense bone beyond the
    outermost labelled vertebra (VerSe does not label vertebrae that the border cuts), are 255 (ignore), which loss and metrics
    leave out. Writes labels/, vertebrae/, vertebrae.csv and datalist.json (70/10/20 by patient) into OUT and refers to the CTs
    where they are; masks.json is a datalist of masks without CT, an input of `render`. Unreadable cases are reported and skipped;
    rerun the same command to resume.

    Args:
        source: folder with the downloaded VerSe tree, at any depth.
        out: folder to write to.
        grades: appendix E1 of Löffler et al. 2020, .xlsx as published or .csv; without it every grade is unknown, for training of
            the outputs of vertebra and body alone.
        min_grade: smallest Genant grade that counts as a fracture.
        unknown: treatment of ungraded vertebrae: ignore, background or drop-case.
        masks_only: also convert masks without a CT, for the shapes of real fractures: they enter labels/, vertebrae/,
            vertebrae.csv and masks.json, not the datalist.
        seed: seed of the split.
        workers: number of threads.

    Returns:
        Path of the datalist, or of masks.json when there is no CT at all.
    """
    root = Path(source)
    if not root.is_dir():
        raise InputError(f"{source}: no such folder; expected the folder of the VerSe tree")
    if unknown not in UNKNOWN:
        raise InputError(f"unknown={unknown!r}: must be one of {', '.join(UNKNOWN)}")
    if min_grade not in (1, 2, 3):
        raise InputError(f"min_grade={min_grade!r}: must be 1, 2 or 3")
    images, masks = require_cases(root)
    table = read_grades(grades) if grades is not None else {}
    paired = set(images) & set(masks)
    names = sorted(masks if masks_only else paired)
    if not names:
        raise InputError(
            f"{source}: has {len(masks)} mask(s) and {len(images)} CT(s), but no case with both; complete the download"
            + (", or add --masks_only for the shapes alone" if masks else "")
        )
    if grades is not None and not any(c in table for c in names):
        raise InputError(f"{grades}: no row matches a case of {source} (first case there: {names[0]}); is it the right table?")
    # Hash of the grades in use, equal for the .xlsx and the .csv of one table.
    used = repr([(case, sorted(table[case].items())) for case in names if case in table])
    settings = {"source": str(root.resolve()), "min_grade": min_grade, "unknown": unknown, "masks_only": masks_only}
    begin_dataset(out, settings | {"grades_sha256": hashlib.sha256(used.encode()).hexdigest()[:16]})
    for case in [] if masks_only else sorted(set(masks) - paired):
        print(f"{masks[case]}: has no CT; skipped (--masks_only converts it)")
    for case in sorted(set(images) - paired):
        print(f"{images[case]}: has no vertebra mask; skipped")

    def convert_case(case: str) -> ConvertedCase | None:
        vertebrae = read_label_map(masks[case])
        ct = nib.load(images[case]) if case in images else None
        if ct is not None:
            require_same_grid(images[case], ct, vertebrae)
        case_grades = table.get(case, {})
        mask = fracture_mask(np.asarray(vertebrae.dataobj), case_grades, min_grade, unknown)
        if mask is None:
            return None
        if unknown == "ignore" and ct is not None:
            mask[unlabelled_bone(ct, vertebrae) & (mask == 0)] = IGNORE_INDEX
        label = nib.Nifti1Image(mask, vertebrae.affine)
        return ConvertedCase(label, vertebrae, attributes=grade_attributes(case_grades, min_grade))

    cases = [
        SourceCase(c, c.split("_")[0], images.get(c, masks[c]), partial(convert_case, c), in_datalist=c in images, masks=[masks[c]])
        for c in names
    ]
    description = "VerSe's layout without grades." if grades is None else "VerSe with Genant grades; CC BY-SA 4.0."
    return convert(cases, out, description, seed, workers)
