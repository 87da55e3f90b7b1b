# SPDX-License-Identifier: Apache-2.0
"""The user's own scans or slices with masks of fractures, or with vertebra masks and a table of grades, paired by file name."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path

import nibabel as nib
import numpy as np

from ...core.errors import InputError
from ...core.suggestions import suggest
from ...core.vertebrae import LEVELS, spine_order
from ...io.formats import NIFTI, PICTURES, file_suffix, is_deep_picture, read_volume
from ...io.label_maps import ensure_integers, read_label_map
from ...io.vertebra_folder import vertebra_folder
from ..case_files import CaseFiles, find_case_files
from ..case_table import CaseTable, read_case_table, write_case_table
from ..datalist import IGNORE_INDEX
from ..patients import describe_guess, guess_patients, patients_by_pattern
from .conversion import OUTPUTS, ConvertedCase, SourceCase, begin_dataset, convert, process_cases, require_same_grid
from .graded_masks import UNLISTED, attributes_of, label_graded_case, read_vertebra_mask, unlisted_vertebrae
from .grades import SACRUM


def _values_problem(file: Path, values: Sequence[int], unknown: int | None) -> str:
    """Line about a mask of several values, with values of it as a suggestion."""
    marked = [v for v in values if v not in (0, unknown, IGNORE_INDEX)] or [v for v in values if v not in (0, unknown)]
    choice = str(marked[0]) if len(marked) == 1 else f'"[{",".join(map(str, marked[:2]))}]"'
    unknown_too = " --unknown 255" if IGNORE_INDEX in values and unknown is None and IGNORE_INDEX not in marked else ""
    table = len(marked) > 1 and all(v in LEVELS for v in marked)
    return f"{file}: contains the values {list(values)}; name those of fractures, such as --fractured {choice}{unknown_too}" + (
        ", or, if they number vertebrae, add a table of grades (--write_table cases.csv)" if table else ""
    )


def binarize_mask(mask: nib.Nifti1Image, file: Path, fractured: Sequence[int] | None, unknown: int | None) -> nib.Nifti1Image:
    """Training label (0, 1 and 255) of a mask with any values.

    Args:
        mask: integers (X, Y, Z).
        file: path, for messages.
        fractured: values that mean a fracture; None means the only value besides 0 and ``unknown``.
        unknown: value that becomes 255.

    Raises:
        ValueError: for fractions; without ``fractured`` for several values, and for 255 alone, which pictures may have.
    """
    data = np.asanyarray(mask.dataobj)
    ensure_integers(data, file, tolerance=0.0)
    if fractured is None:
        values = np.unique(data).astype(int).tolist()
        fractured = [v for v in values if v not in (0, unknown)]
        if len(fractured) > 1:
            raise ValueError(_values_problem(file, values, unknown))
        if fractured == [IGNORE_INDEX] and file_suffix(file) not in PICTURES:
            raise ValueError(f"{file}: contains 255 alone; --unknown 255 where the grade is unknown, --fractured 255 for fractures")
    label = np.isin(data, fractured).astype(np.uint8)
    if unknown is not None:
        label[data == unknown] = IGNORE_INDEX
    return nib.Nifti1Image(label, mask.affine)


def _read_image(path: Path, pixel_mm: float) -> nib.Nifti1Image:
    image = read_volume(path, pixel_mm)
    if len(image.shape) != 3:
        raise ValueError(f"{path}: has shape {image.shape}; a volume must have three dimensions")
    return image


def _written_image(path: Path, image: nib.Nifti1Image) -> nib.Nifti1Image | None:
    """Image to write, or None where the datalist can refer to the file."""
    if path.is_dir() or file_suffix(path) not in NIFTI:
        return image
    return None if np.array_equal(nib.load(path).affine, image.affine) else image  # converted to mm


def _convert_case(
    image_path: Path, label_path: Path | None, fractured: Sequence[int] | None, unknown: int | None, pixel_mm: float
) -> ConvertedCase:
    image = _read_image(image_path, pixel_mm)
    label = None
    if label_path is not None:
        mask = read_label_map(label_path) if vertebra_folder(label_path) else read_volume(label_path, pixel_mm)
        if file_suffix(label_path) in PICTURES and mask.shape == image.shape:
            mask = nib.Nifti1Image(np.asanyarray(mask.dataobj), image.affine)  # PNG and TIFF images have no pixel size
        require_same_grid(label_path, image, mask)
        label = binarize_mask(mask, label_path, fractured, unknown)
    return ConvertedCase(label=label, image=_written_image(image_path, image))


def _convert_graded(
    image_path: Path, mask: Path, table: CaseTable, name: str, unlisted: str, min_grade: int, pixel_mm: float
) -> ConvertedCase:
    image = _read_image(image_path, pixel_mm)
    case = label_graded_case(image, image_path, mask, table.cases[name], table.path, unlisted, min_grade)
    case.image = _written_image(image_path, image)
    return case


def _pair(images: str, labels: str | None, role: str = "mask") -> tuple[CaseFiles, CaseFiles, list[str]]:
    """Images and masks by case, and one line for each that cannot be used.

    Args:
        images: folder of images.
        labels: folder of masks.
        role: "mask" or "vertebrae".
    """
    scans = find_case_files(images, "image")
    masks = CaseFiles() if labels is None else find_case_files(labels, role, without=scans.files.values())
    for line in [*scans.remarks, *scans.unused, *(masks.unused if images != labels else [])]:
        print(line)
    named = {Path(f).resolve() for f in (images, labels) if f is not None}
    for folder in dict.fromkeys([*scans.unsearched, *masks.unsearched]):
        if folder.resolve() not in named:
            print(f"{folder}: is not searched, as {folder.parent} has files of its own; give each case a folder, or none")
    problems = [*scans.problems, *masks.problems]
    if labels is not None:
        if not set(scans.files) & set(masks.files):
            first = f"first image: {min(scans.files, default='none')}, first mask: {min(masks.files, default='none')}"
            raise InputError(
                problems[0]
                if problems
                else f"{labels}: no mask has the name of an image ({first}); rename the masks like their images"
            )
        for name in sorted(set(masks.files) - set(scans.files)):
            problems.append(f"{masks.files[name]}: has no image of the same name; {suggest(name, scans.files)}")
        for name in sorted(set(scans.files) - set(masks.files)):
            problems.append(f"{scans.files.pop(name)}: has no mask of the same name; {suggest(name, masks.files)}")
    return scans, masks, problems


def _select(scans: dict[str, Path], table: CaseTable) -> list[str]:
    """Remove the images that the table does not allow to label; returns one line for each, and for each row without an image."""
    problems = [line for lines in table.problems.values() for line in lines]
    for name in sorted(set(table.cases) - set(scans)):
        problems.append(f"{table.path}: row {table.cases[name].row}: no image and mask of case {name}; {suggest(name, scans)}")
    contradicted = set(scans) & set(table.problems)
    unlisted = set(scans) - set(table.cases) - contradicted if table.graded else set()  # a table of patients may leave out cases
    for name in sorted(contradicted | unlisted):
        if name in unlisted:
            problems.append(f"{scans[name]}: has no row in {table.path}; add one, of a case without fracture: {name},,,,0")
        del scans[name]
    return problems


def _patients(names: Sequence[str], pattern: str | None, table: CaseTable | None) -> dict[str, str]:
    """Patient of every case: of the table, else by the pattern, else guessed and shown."""
    listed = {n: c.patient for n, c in table.cases.items() if c.patient and n in names} if table else {}
    others = [name for name in names if name not in listed]
    if pattern is not None:
        found = patients_by_pattern(others, pattern) | listed
        if len(found) > 1 and len(set(found.values())) == 1:
            only = next(iter(found.values()))
            print(f"warning: all {len(found)} cases are of one patient, {only!r}, by --patient {pattern!r}")
        return found
    guessed = guess_patients(others)
    for line in describe_guess(guessed) if guessed else []:
        print(line)
    return guessed | listed


def _write_template(
    path: str, scans: Mapping[str, Path], masks: Mapping[str, Path], pattern: str | None, problems: list[str]
) -> str:
    """Write a table to fill in, with the vertebrae of every mask."""
    if Path(path).exists():
        raise InputError(f"write_table={path!r}: exists, and may hold grades; choose another name, or use it as --table {path}")
    names = sorted(scans)
    patients = _patients(names, pattern, None)

    def vertebrae(name: str) -> list[int]:
        return [v for v in spine_order(np.asarray(read_vertebra_mask(masks[name]).dataobj)) if v != SACRUM]

    found, failures = process_cases(vertebrae, names, lambda name: masks[name], description="masks")
    rows = {name: labels for name, labels in zip(names, found, strict=True) if labels is not None}
    if not rows:
        raise InputError(failures[0])
    write_case_table(path, rows, patients)
    print(f"{path}: fill in grade (0 intact, 1 to 3, blank unknown) and shape where known; then name it by --table {path}")
    if failures or problems:
        raise InputError(f"{len(failures) + len(problems)} cases were skipped, see above; the others are in {path}")
    return path


def _check(options: Mapping[str, object], table: CaseTable | None) -> None:
    """Refuse options that are out of range or contradict each other.

    Raises:
        InputError: for the first.
    """
    if options["pixel_mm"] <= 0:  # type: ignore[operator]
        raise InputError(f"pixel_mm={options['pixel_mm']!r}: the size of a pixel in mm must be above 0")
    if options["unlisted"] not in (None, *UNLISTED):
        raise InputError(f"unlisted={options['unlisted']!r}: must be one of {', '.join(UNLISTED)}")
    if options["min_grade"] not in (1, 2, 3):
        raise InputError(f"min_grade={options['min_grade']!r}: must be 1, 2 or 3")
    graded = table is not None and table.graded
    if graded and (options["fractured"] is not None or options["unknown"] is not None):
        name = "fractured" if options["fractured"] is not None else "unknown"
        raise InputError(
            f"{name}={options[name]!r}: is of masks of fractures; with the grades of a table the masks are of vertebrae"
        )
    if (graded or options["write_table"]) and options["labels"] is None:
        raise InputError("a table of grades needs LABELS, the folder of the vertebra masks, after IMAGES")
    chosen = options["fractured"]
    if options["unknown"] is not None and options["unknown"] in (chosen if isinstance(chosen, Sequence) else [chosen]):
        raise InputError(f"unknown={options['unknown']!r}: is also a value of --fractured; a value means one of the two")
    if options["out"] is None and not options["write_table"]:
        raise InputError("--out is missing; name the folder to write to")


def folder(
    images: str,
    labels: str | None = None,
    *,
    out: str | None = None,
    fractured: Sequence[int] | int | None = None,
    unknown: int | None = None,
    table: str | None = None,
    write_table: str | None = None,
    unlisted: str | None = None,
    min_grade: int = 1,
    patient: str | None = None,
    pixel_mm: float = 1.0,
    seed: int = 0,
    workers: int = 1,
) -> str:
    """Make a data set of your own images and masks.

    Pairs IMAGES and LABELS by file name; endings such as _ct, _0000, _seg, _seg-vert_msk and _mask are ignored. An image is a
    volume (NIfTI, NRRD, MHA, or a folder with a DICOM series) or one sagittal slice, head up and front to the left (PNG, TIFF, or
    a DICOM file ending in .dcm); for single slices add configs/images_2d.yaml to the training. LABELS are masks of
    fractures; or, with a TABLE of grades, masks of vertebrae in VerSe's labels (also TotalSegmentator's folders of one mask per
    vertebra), of which those with a grade of at least MIN_GRADE become fractures, and those of unknown grade are ignored. Without
    LABELS all cases go to the testing section, for inference. Writes labels/ (1 fracture, 255 ignore), images/ where the format
    had to change, vertebrae/ and vertebrae.csv of vertebra masks, and datalist.json (70/10/20 by patient) into OUT. Cases that
    cannot be used are reported and skipped, and the command ends with status 1; rerun the same command to resume.

    Args:
        images: folder of images.
        labels: folder of masks on the grids of the images.
        out: folder to write to.
        fractured: values of the mask that mean a fracture; by default the one value that is not 0.
        unknown: value of the mask that becomes 255, the ignore index.
        table: CSV with the columns case, patient, level or label, grade and shape, for vertebra masks; or case and patient alone.
        write_table: CSV to write in place of a data set: a table to fill in, with a row for every vertebra of the masks.
        unlisted: rule for vertebrae without a row in the table: intact or ignore (255); by default ignore where the table has rows
            of grade 0, and intact where it lists fractures alone.
        min_grade: smallest grade that counts as a fracture.
        patient: pattern for the patient in a case name: a regular expression, its first group if it has one, such as "^[^_]+"; or
            a glob with a group, such as "(p*)_*". Without it and without patients in a table they are guessed, and shown.
        pixel_mm: pixel size of PNG and TIFF images in mm.
        seed: seed of the split.
        workers: number of threads.

    Returns:
        Path of the datalist, or of the table to fill in.
    """
    rows = read_case_table(table) if table is not None else None
    _check(
        {"pixel_mm": pixel_mm, "unlisted": unlisted, "min_grade": min_grade, "fractured": fractured, "unknown": unknown}
        | {"labels": labels, "write_table": write_table, "out": out},
        rows,
    )
    graded = bool(write_table) or (rows is not None and rows.graded)
    found, masks, problems = _pair(images, labels, "vertebrae" if graded else "mask")
    scans = found.files
    problems += _select(scans, rows) if rows is not None and not write_table else []
    for line in problems:
        print(f"skipped: {line}")
    if not scans:
        raise InputError(problems[0] if problems else f"{images}: no case is left")
    if write_table:
        return _write_template(write_table, scans, masks.files, patient, problems)
    if deep := sum(is_deep_picture(scan) for scan in scans.values()):
        print(f'{deep} picture(s) have more than 8 bits: train with their range, such as --hu_window "[0, 4095]"')
    patients = _patients(sorted(scans), patient, rows)
    values = [fractured] if isinstance(fractured, int) else fractured and [int(v) for v in fractured]
    settings = {"images": str(Path(images).resolve()), "labels": labels and str(Path(labels).resolve())}
    # The datalist refers to scans in NIfTI where they are.
    kept = all(file_suffix(scan) in NIFTI for scan in scans.values())
    begin_dataset(str(out), settings, [name for name in OUTPUTS if not (kept and name == "images")])
    cases = []
    if rows is not None and rows.graded:
        for line in rows.notes:
            print(line)
        rule, line = unlisted_vertebrae(unlisted, rows.lists_intact)
        print(line)
        for n in sorted(scans):
            used = json.dumps([attributes_of(rows.cases, n), rule, min_grade, pixel_mm])
            make = partial(_convert_graded, scans[n], masks.files[n], rows, n, rule, min_grade, pixel_mm)
            cases.append(SourceCase(n, patients[n], scans[n], make, settings=used, masks=[masks.files[n]]))
        description = "Own images, vertebra masks and grades."
    else:
        used = json.dumps([values, unknown, pixel_mm])
        for n in sorted(scans):
            make = partial(_convert_case, scans[n], masks.files.get(n), values, unknown, pixel_mm)
            mask = [masks.files[n]] if n in masks.files else []
            cases.append(SourceCase(n, patients[n], scans[n], make, settings=used, masks=mask))
        description = "Own images and masks."
    return convert(cases, str(out), description, seed, workers, split=labels is not None, skipped=len(problems))
