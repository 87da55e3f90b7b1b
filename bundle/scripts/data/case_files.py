# SPDX-License-Identifier: Apache-2.0
"""Names of cases in file names, and the images or masks of a folder by case: the one pairing of all commands."""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from ..core.errors import InputError
from ..io.dicom_headers import is_dicom
from ..io.formats import PICTURES, file_suffix, stem
from ..io.split_series import find_split_series, part_folders
from ..io.vertebra_folder import SEGMENTATIONS, vertebra_folder

# Endings that tools append to the name of a case, by the content of the file; _0000 is a channel of nnU-Net.
ENDINGS: dict[str, str] = {
    "probability": "probability|probabilities|prob",
    "vertebrae": "seg-vert|vertebrae|vertebra|vert|instances",
    "mask": "segmentation|seg|mask|msk|labels|label|gt|prediction|pred|fracture",
    "image": "ct|image|img",
}
ENDING = re.compile(
    rf"(?<=.)(?:[-_.](?:{'|'.join(f'(?P<{role}>{words})' for role, words in ENDINGS.items())})|_000\d)$", re.IGNORECASE
)
GENERIC = re.compile(rf"^(?:{'|'.join(ENDINGS.values())}|{SEGMENTATIONS}|scan|volume)$", re.IGNORECASE)
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


def _endings(name: str) -> tuple[str, list[str]]:
    """Name without endings, and the content that each of them stands for."""
    roles: list[str] = []
    while match := ENDING.search(name):
        roles.append(match.lastgroup or "image")
        name = name[: match.start()]
    return name, roles


def case_name(path: Path | str) -> str:
    """Name of the case of an image or mask: that of the file without format and without endings such as _ct, _0000 and _seg.

    Examples: ``p1_ct.nii.gz``, ``p1_0000.nii.gz``, ``p1_seg-vert_msk.nii.gz`` and ``p1-mask.png`` are of case ``p1``.
    """
    return _endings(stem(path))[0]


def content_of(path: Path | str) -> str:
    """Content that the name of a file stands for, a key of ``ENDINGS``; "" where the name is silent."""
    if Path(path).name == SEGMENTATIONS:
        return "vertebrae"
    name, roles = _endings(stem(path))
    roles += [role for role, words in ENDINGS.items() if re.fullmatch(words, name, re.IGNORECASE)]
    return next((role for role in ENDINGS if role in roles), "")


@dataclass
class CaseFiles:
    """Files of a folder by case.

    Attributes:
        files: file, folder of a DICOM series, or folder of TotalSegmentator by case.
        problems: one line for each case that cannot be used.
        unused: one line for each file that has another content by its name.
        remarks: one line for each series that may continue in another folder.
    """

    files: dict[str, Path] = field(default_factory=dict)
    problems: list[str] = field(default_factory=list)
    unused: list[str] = field(default_factory=list)
    remarks: list[str] = field(default_factory=list)


def _is_series(folder: Path) -> bool:
    return any(is_dicom(f) for f in sorted(folder.iterdir())[:5] if f.is_file()) or bool(part_folders(folder))


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
    nested = not items or all(f.is_dir() for f in items)
    for folder in search if nested else []:
        before = len(found.problems)
        below = _collect(folder, role, found)
        if not below and role == "image" and len(found.problems) == before:  # else the reason is known
            found.problems.append(f"{folder}: contains no image; restore it, or delete the folder")
        items += below
    return items


def _distinct_folders(files: Sequence[Path]) -> dict[Path, str]:
    """Folders that distinguish files of one name, such as s1 and s2 of s1/bone.nii.gz and s2/bone.nii.gz."""
    groups: dict[str, list[Path]] = defaultdict(list)
    for file in dict.fromkeys(files):
        groups[stem(file)].append(file)
    folders: dict[Path, str] = {}
    for same in (group for group in groups.values() if len(group) > 1):
        levels = (["/".join(file.parts[-k:-1]) for file in same] for k in range(2, max(len(file.parts) for file in same) + 1))
        distinct = next((names for names in levels if len(set(names)) == len(same)), [file.parent.name for file in same])
        folders |= zip(same, distinct, strict=True)
    return folders


def _names(items: Sequence[Path], root: Path) -> dict[Path, str]:
    """Case of every item; files of one name in several folders, and names such as ct, have the names of their folders."""
    names = {}
    repeated = Counter(stem(f) for f in items if f.parent != root)  # such as s1/bone.nii.gz and s2/bone.nii.gz
    for item in items:
        name, folder = case_name(item), item.parent
        if item.is_dir() and item.name == SEGMENTATIONS:
            # Beside the CT of a single case its name is that of the CT.
            name = "ct" if folder == root and (folder / "ct.nii.gz").is_file() else _endings(folder.resolve().name)[0]
        elif folder != root and (GENERIC.match(name) or repeated[stem(item)] > 1):
            name = _endings(folder.name)[0]
        names[item] = name
    return names


def find_case_files(folder: Path | str, role: str) -> CaseFiles:
    """Images or masks of a folder by case, from files, DICOM series, folders of TotalSegmentator, or one subfolder per case.

    Args:
        folder: folder. Its subfolders are searched where it has no file of its own.
        role: content, a key of ``ENDINGS``. Where a case has files of several contents, such as ``a_ct.nii.gz`` and
            ``a_seg.nii.gz``, the name of the file decides.

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
            name = "ct" if (own.parent / "ct.nii.gz").is_file() else _endings(parent.resolve().name)[0]
            return CaseFiles({name: own})
        items = _collect(root, role, found)
        if not items and role == "image" and _is_series(root):
            raise InputError(f"{root}: is a DICOM series itself; expected its parent folder, {root.resolve().parent}")
    except OSError as error:
        raise InputError(f"{error.filename or root}: cannot be read ({error.strerror}); change its permissions") from None
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


def distinct_names(files: Sequence[Path | str], generic: bool = False) -> list[str]:
    """Name of each of several files, without format: that of its folder where several of them have the same.

    Examples: ``p1/ct.nii.gz`` and ``p2/ct.nii.gz`` are p1 and p2.

    Args:
        files: files.
        generic: also name a single file after its folder where its name is ct or the like.
    """
    folders = _distinct_folders([Path(file) for file in files])
    names = []
    for file in map(Path, files):
        folder = folders.get(file) or (file.parent.name if generic and GENERIC.match(case_name(file)) else "")
        names.append(_endings(folder)[0] or stem(file))
    return names


def names_in_outputs(images: Sequence[Path | str]) -> list[list[str]]:
    """Names, without endings, that the results of each of several images may have, the most likely first."""
    distinct, folders = distinct_names(images), distinct_names(images, generic=True)
    return [list(dict.fromkeys(_endings(name)[0] for name in names)) for names in zip(distinct, folders, strict=True)]


def file_of_case(files: Mapping[str, Path], image: Path | str) -> Path | None:
    """Mask of an image among those of ``find_case_files``: by its name, or that of its folder where the name is ct or the like."""
    name = case_name(image)
    if name not in files and GENERIC.match(name):
        name = _endings(Path(image).resolve().parent.name)[0]
    return files.get(name)
