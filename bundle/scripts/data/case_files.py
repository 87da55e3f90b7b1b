# SPDX-License-Identifier: Apache-2.0
"""Names of cases in file names, and the images or masks of a folder by case: the one pairing of all commands."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from ..core.errors import InputError
from ..io.case_naming import GENERIC, case_name, content_of, distinct_folders, without_endings
from ..io.dicom_headers import is_dicom
from ..io.formats import PICTURES, file_suffix
from ..io.split_series import find_split_series, part_folders
from ..io.vertebra_folder import SEGMENTATIONS, vertebra_folder

EXPECTED = {
    "image": "a folder of images (NIfTI, NRRD, MHA, PNG, DICOM)",
    "mask": "a folder of masks (NIfTI, NRRD, MHA, PNG)",
    "vertebrae": "a folder of vertebra masks (NIfTI, NRRD, MHA), or of TotalSegmentator",
    "probability": "a folder of probability maps (NIfTI, NRRD, MHA)",
}
NOUN = {"image": "image", "mask": "mask", "vertebrae": "vertebra mask", "probability": "probability map"}
# Contents that may stand for another where a folder has no file of its own.
COMPATIBLE = {
    "image": {"image", ""},
    "mask": {"mask", "vertebrae", ""},
    "vertebrae": {"vertebrae", "mask", ""},
    "probability": {"probability", ""},
}


@dataclass
class CaseFiles:
    """Files of a folder by case.

    Attributes:
        files: file, folder of a DICOM series, or folder of TotalSegmentator by case.
        problems: one line for each case that cannot be used.
        unused: one line for each file that has another content by its name.
        remarks: one line for each series that may continue in another folder.
        unsearched: folders with volumes that are not searched, as the folder above has files of its own.
    """

    files: dict[str, Path] = field(default_factory=dict)
    problems: list[str] = field(default_factory=list)
    unused: list[str] = field(default_factory=list)
    remarks: list[str] = field(default_factory=list)
    unsearched: list[Path] = field(default_factory=list)


def _is_series(folder: Path) -> bool:
    visible = sorted(f for f in folder.iterdir() if not f.name.startswith("."))  # macOS adds ._ files
    return any(is_dicom(f) for f in visible[:5] if f.is_file()) or bool(part_folders(folder))


def _without_parts(items: list[Path], found: CaseFiles) -> list[Path]:
    """Items without folders that hold only a part of a series, each of which would be a scan that ends early."""
    split = find_split_series(str(f) for f in items if f.is_dir())
    reasons = dict(split.refused)
    for group in split.joined:
        remedy = "move them into a folder of their own, which is then read as one scan"
        reasons |= {f: f"is a part of the series in {', '.join(o for o in group if o != f)}; {remedy}" for f in group}
    found.problems += [f"{f}: {reasons[str(f)]}" for f in items if str(f) in reasons]
    found.remarks += [f"{f}: {split.apart[str(f)]}" for f in items if str(f) in split.apart and str(f) not in reasons]
    return [f for f in items if str(f) not in reasons]


def _is_file(item: Path) -> bool:
    return bool(file_suffix(item)) and item.is_file()


def _own_files(folder: Path) -> list[Path]:
    return [f for f in sorted(folder.iterdir()) if not f.name.startswith(".") and _is_file(f)]


def _collect(root: Path, role: str, found: CaseFiles) -> list[Path]:
    """Files and folders that stand for one image or mask each, subfolders included where the folder has no file of its own."""
    visible = [f for f in sorted(root.iterdir()) if not f.name.startswith(".")]
    items = [f for f in visible if _is_file(f)]
    found.problems += [f"{f}: is a link to a missing file; restore it" for f in visible if f.is_symlink() and not f.exists()]
    search: list[Path] = []
    for folder in (f for f in visible if f.is_dir()):
        try:
            vertebrae = vertebra_folder(folder)
            if vertebrae is not None and role in ("mask", "vertebrae"):
                items.append(vertebrae)
            elif _is_series(folder):
                items.append(folder)
            elif role != "image" or folder.name != SEGMENTATIONS:
                search.append(folder)
        except OSError as error:
            found.problems.append(f"{folder}: cannot be read ({error.strerror}); change its permissions")
    if role == "image":
        items = _without_parts(items, found)
    own = [f for f in items if not f.is_dir()]
    for folder in search:
        if not own:
            before = len(found.problems)
            below = _collect(folder, role, found)
            if not below and role == "image" and len(found.problems) == before:  # else the reason is known
                found.problems.append(f"{folder}: contains no image; restore it, or delete the folder")
            items += below
            continue
        one_picture = len(own) == 1 and file_suffix(own[0]) in PICTURES  # such as an overview beside the folders of the cases
        below = _collect(folder, role, CaseFiles()) if one_picture else _own_files(folder)
        volumes = [f for f in below if f.is_dir() or file_suffix(f) not in PICTURES]
        if one_picture:
            items += volumes
        elif volumes and vertebra_folder(folder) is None:
            found.unsearched.append(folder)
    return items


def _names(items: Sequence[Path], root: Path) -> dict[Path, str]:
    """Case of every item; files of one name in several folders, and names such as ct, have the names of their folders."""
    names = {}
    folders = distinct_folders([f.relative_to(root) for f in items if f.parent != root])
    for item in items:
        name, folder = case_name(item), item.parent
        if item.is_dir() and item.name == SEGMENTATIONS:
            # Beside the CT of a single case its name is that of the CT.
            name = "ct" if folder == root and (folder / "ct.nii.gz").is_file() else without_endings(folder.resolve().name)
        elif folder != root and (GENERIC.match(name) or item.relative_to(root) in folders):
            name = without_endings(folders.get(item.relative_to(root), folder.name))
        names[item] = name
    return names


def find_case_files(folder: Path | str, role: str, without: Iterable[Path] = ()) -> CaseFiles:
    """Images or masks of a folder by case, from files, DICOM series, folders of TotalSegmentator, or one subfolder per case.

    Args:
        folder: folder. Its subfolders are searched where it has no file of its own, or one picture alone.
        role: content, a key of ``ENDINGS``. Where a case has files of several contents, such as ``a_ct.nii.gz`` and
            ``a_seg.nii.gz``, the name of the file decides.
        without: files that have another content: a file without an ending is an image or a mask, and not both.

    Raises:
        InputError: when the folder is missing, or contains no such file.
    """
    root = Path(folder)
    if not root.exists():
        raise InputError(f"{root}: no such folder; expected {EXPECTED[role]}")
    if not root.is_dir():
        raise InputError(f"{root}: is a file; expected {EXPECTED[role]}")
    found = CaseFiles()
    own = vertebra_folder(root) if role in ("mask", "vertebrae") else None
    try:
        if own is not None and (own == root or not any(_is_file(f) for f in root.iterdir() if f.name != "ct.nii.gz")):
            parent = own.parent if own.name == SEGMENTATIONS else own
            name = "ct" if (own.parent / "ct.nii.gz").is_file() else without_endings(parent.resolve().name)
            return CaseFiles({name: own})
        items = _collect(root, role, found)
        if not items and role == "image" and _is_series(root):
            raise InputError(f"{root}: is a DICOM series itself; expected its parent folder, {root.resolve().parent}")
    except OSError as error:
        raise InputError(f"{error.filename or root}: cannot be read ({error.strerror}); change its permissions") from None
    other = {f.resolve() for f in without}
    items = [f for f in items if f.resolve() not in other]
    pictures = [f for f in items if file_suffix(f) in PICTURES]
    if len(pictures) < len(items):
        found.unused += [f"{f}: is a picture beside volumes; left out" for f in pictures]
        items = [f for f in items if f not in pictures]
    if any(content_of(f) in COMPATIBLE[role] for f in items):
        names = _names(items, root)
        kept = [f for f in items if content_of(f) in COMPATIBLE[role]]
        listed = {names[f] for f in kept}
        found.unused += [
            f"{f}: is no {NOUN[role]} by its name; left out" for f in items if f not in kept and names[f] not in listed
        ]
        items = kept
    groups: dict[str, list[Path]] = defaultdict(list)
    for item, name in _names(items, root).items():
        groups[name].append(item)
    for name, same in groups.items():
        exact = same if role == "image" else [f for f in same if content_of(f) == role] or same
        if len(exact) > 1:
            found.problems.append(
                f"{exact[0]}: has the same name as {exact[1].relative_to(root)} (both are case {name}, endings do not count); "
                "rename one, neither is used"
            )
        else:
            found.files[name] = exact[0]
    if not groups:
        raise InputError(found.problems[0] if found.problems else f"{root}: contains no {NOUN[role]}; expected {EXPECTED[role]}")
    return found


def file_of_case(files: Mapping[str, Path], image: Path | str) -> Path | None:
    """Mask of an image among those of ``find_case_files``: by its name, or that of its folder where the name is ct or the like."""
    name = case_name(image)
    if name not in files and GENERIC.match(name):
        name = without_endings(Path(image).resolve().parent.name)
    return files.get(name)
