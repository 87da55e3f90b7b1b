# SPDX-License-Identifier: Apache-2.0
"""Names of cases in the names of files and their folders: the one rule of all commands."""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path

from .formats import stem
from .vertebra_folder import SEGMENTATIONS

# Endings that tools append to the name of a case, by the content of the file; _0000 is the channel of nnU-Net; other
# numbers, such as of case_0001, are part of a name.
ENDINGS: dict[str, str] = {
    "probability": "probability|probabilities|prob",
    "vertebrae": "seg-vert|vertebrae|vertebra|vert|instances",
    "mask": "segmentation|seg|mask|msk|labels|label|gt|prediction|pred|fracture",
    "image": "ct|image|img",
}
ENDING = re.compile(
    rf"(?<=.)(?:[-_.](?:{'|'.join(f'(?P<{role}>{words})' for role, words in ENDINGS.items())})|_0000)$", re.IGNORECASE
)
GENERIC = re.compile(rf"^(?:{'|'.join(ENDINGS.values())}|{SEGMENTATIONS}|scan|volume)$", re.IGNORECASE)


def _endings(name: str) -> tuple[str, list[str]]:
    """Name without endings, and the content that each of them stands for."""
    roles: list[str] = []
    while match := ENDING.search(name):
        roles.append(match.lastgroup or "image")
        name = name[: match.start()]
    return name, roles


def without_endings(name: str) -> str:
    """Name of a case, perhaps with folders, without the endings that tools append."""
    return _endings(name)[0]


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


def _folders_of(file: Path, levels: int) -> str:
    """Names of the nearest folders of a file, joined by ``_``, so that they are a name of a file as well."""
    return "_".join([part for part in file.parent.parts if part != file.anchor][-levels:])


def distinct_folders(files: Sequence[Path]) -> dict[Path, str]:
    """Folders that distinguish files of one name, such as s1 and s2 of s1/bone.nii.gz and s2/bone.nii.gz.

    Of ``s1/CT/bone.nii.gz`` and ``s2/CT/bone.nii.gz`` they are s1_CT and s2_CT.
    """
    groups: dict[str, list[Path]] = defaultdict(list)
    for file in dict.fromkeys(files):
        groups[stem(file)].append(file)
    folders: dict[Path, str] = {}
    for same in (group for group in groups.values() if len(group) > 1):
        levels = ([_folders_of(file, k) for file in same] for k in range(1, max(len(file.parts) for file in same)))
        distinct = next((names for names in levels if len(set(names)) == len(same)), [file.parent.name for file in same])
        folders |= zip(same, distinct, strict=True)
    return folders


def _numbered(names: Sequence[str]) -> list[str]:
    """Names of which those that occurred before have a number, with which none is that of another."""
    taken, given = set[str](), set(names)
    result = []
    for name in names:
        numbers = (f"{name}_{number}" for number in range(2, 2 * len(names) + 2))
        free = name if name not in taken else next(n for n in numbers if n not in taken | given)
        taken.add(free)
        result.append(free)
    return result


def distinct_names(files: Sequence[Path | str], generic: bool = False) -> list[str]:
    """Name of each of several files, without format and folder: that of its folder where several of them have the same.

    Examples: ``p1/ct.nii.gz`` and ``p2/ct.nii.gz`` are p1 and p2. A file that is listed twice has one name.

    Args:
        files: files.
        generic: also name a single file after its folder where its name is ct or the like.
    """
    paths = list(dict.fromkeys(Path(file) for file in files))
    folders, names = distinct_folders(paths), []
    for file in paths:
        folder = folders.get(file) or (file.parent.name if generic and GENERIC.match(case_name(file)) else "")
        names.append(folder or stem(file))
    by_file = dict(zip(paths, _numbered(names), strict=True))
    return [by_file[Path(file)] for file in files]


def names_in_outputs(images: Sequence[Path | str]) -> list[list[str]]:
    """Names, without endings, that the results of each of several images may have, the most likely first."""
    distinct, folders = distinct_names(images), distinct_names(images, generic=True)
    return [list(dict.fromkeys(without_endings(name) for name in names)) for names in zip(distinct, folders, strict=True)]


class CaseNames:
    """Names of the cases of an evaluation, those of its tables, masks and overlays: unique, and none has a folder.

    They are ``distinct_names`` of the labels; images that share a label add their own names.

    Args:
        cases: cases with ``label`` and, mostly, ``image``.
    """

    def __init__(self, cases: Sequence[Mapping[str, str]] = ()) -> None:
        self.files = list(dict.fromkeys(self._key(c.get("image"), c["label"]) for c in cases if c.get("label")))
        names = distinct_names([label for _, label in self.files])
        shared = Counter(names)
        images = distinct_names([image or label for image, label in self.files])
        own = [f"{n}_{i}" if shared[n] > 1 else n for n, i in zip(names, images, strict=True)]
        self._names = dict(zip(self.files, _numbered(own), strict=True))

    @staticmethod
    def _key(image: Path | str | None, label: Path | str) -> tuple[str, str]:
        return str(Path(image)) if image else "", str(Path(label))

    def name(self, image: Path | str | None, label: Path | str) -> str:
        """Name of the case of an image and its label; that of the label for one of another evaluation."""
        return self._names.get(self._key(image, label), stem(label))
