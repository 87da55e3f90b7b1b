# SPDX-License-Identifier: Apache-2.0
"""Scans of a folder or a datalist, and everything beside them that belongs to no scan, with the reason."""

from __future__ import annotations

import itertools
import json
import os
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path

import nibabel as nib

from ..core.errors import InputError
from ..data.datalist import SECTIONS, load_datalist
from ..io.dicom_headers import is_dicom
from ..io.formats import NIFTI, VOLUMES, file_suffix, stem
from ..io.split_series import find_split_series, part_folders, part_remarks

MAX_PROBED = 200  # files of a folder that are opened in the search for a DICOM file
MAX_DEPTH = 4  # folders below the input, in the search for scans that its own level does not hold
MAX_NAMED = 5  # files named for one reason
NOT_UTF8 = "its path is not UTF-8; rename that file or folder"
HIDDEN = "hidden file"
PAIR = "half of a pair of .hdr and .img, which is not read; convert it to .nii.gz (nibabel does)"
LOOSE = "a DICOM file outside the folder of a series; put the slices of its series into a folder of their own"
NO_SCAN = "no scan"
OUTPUT = "a result of an earlier segmentation, no scan"
PART_SEPARATOR = "\n"  # of the folders in ``parts``
DETACHED = (".zraw", ".raw", ".raw.gz")  # endings of the voxels of a header beside them
OUTPUT_ENDINGS = ("_fracture", "_vertebrae", "_probability")
RESERVED = ("lost+found", "System Volume Information", "$RECYCLE.BIN")  # folders of file systems, readable by few


def printable(path: str | Path) -> str:
    """Path in which bytes that are no UTF-8 are escaped, for tables and terminals."""
    return os.fsencode(path).decode("utf-8", "backslashreplace")


class Scans(list[dict[str, str]]):
    """Scans, one dictionary each, and everything of the input that belongs to none of them.

    Args:
        cases: ``image``, optionally ``vertebrae``, ``parts`` with the other folders of a DICOM series, ``remark`` with a note on
            the input, and ``problem`` where a scan cannot be read.
        unused: files and folders with the reason why they are not used.
    """

    def __init__(self, cases: Iterable[dict[str, str]] = (), unused: Iterable[tuple[str, str]] = ()) -> None:
        super().__init__(cases)
        self.unused = list(unused)

    def unused_lines(self) -> list[str]:
        """One line per reason, with some of the names."""
        names: dict[str, list[str]] = defaultdict(list)
        for path, reason in self.unused:
            names[reason].append(path)
        lines = []
        for reason, paths in names.items():
            more = f" and {len(paths) - MAX_NAMED} more" if len(paths) > MAX_NAMED else ""
            lines.append(f"not used: {', '.join(paths[:MAX_NAMED])}{more}: {reason}")
        return lines


def _visible(folder: Path) -> list[Path]:
    return sorted(f for f in folder.iterdir() if not f.name.startswith("."))


def is_output(path: Path) -> bool:
    """True for a mask or DICOM file that ``segment`` wrote: the record of its scan lies beside it, or its header names it."""
    name = stem(path) if file_suffix(path) else path.stem
    endings = OUTPUT_ENDINGS if file_suffix(path) in VOLUMES else ("_seg", "_sr") if path.suffix == ".dcm" else ()
    ending = next((e for e in endings if name.endswith(e)), None)
    if ending is None:
        return False
    if (path.parent / "cases" / f"{name[: -len(ending)]}.json").is_file():
        return True
    if file_suffix(path) not in NIFTI:
        return False
    try:
        text = bytes(nib.load(path).header["descrip"])
    except Exception:  # nibabel has errors of its own for a file that is no NIfTI
        return False
    return b"research use only" in text


def is_series(folder: Path) -> bool:
    """Return True for a folder of DICOM files; a single one beside other scans or folders is no series.

    Hidden and empty files are left out of the search.

    Raises:
        OSError: for a folder that cannot be opened.
    """
    if not folder.is_dir():
        return False
    entries = _visible(folder)
    candidates = (f for f in entries if f.is_file() and file_suffix(f) not in VOLUMES and f.stat().st_size and not is_output(f))
    slices = (f for f in itertools.islice(candidates, MAX_PROBED) if _is_dicom(f))
    number = len(list(itertools.islice(slices, 2)))
    return number == 2 or (number == 1 and not any(f.is_dir() or file_suffix(f) in VOLUMES for f in entries))


def _is_dicom(path: Path) -> bool:
    try:
        return path.name != "DICOMDIR" and is_dicom(path)
    except OSError:
        return False


def _scans_below(folder: Path, depth: int = MAX_DEPTH) -> Iterator[Path]:
    """Scans of a folder and the folders below it."""
    try:
        if is_series(folder):
            yield folder
        for path in _visible(folder):
            if path.is_file() and file_suffix(path) in VOLUMES and not is_output(path):
                yield path
            elif path.is_dir() and not path.is_symlink() and depth:
                yield from _scans_below(path, depth - 1)
    except OSError:
        return


def _reason_of_folder(folder: Path, root: Path) -> str:
    below = list(_scans_below(folder))
    if not below:
        return "a folder without a scan"
    shown = ", ".join(printable(p.relative_to(root)) for p in sorted({p.parent for p in below})[:MAX_NAMED])
    return f"its {len(below)} scan(s) lie further down; set input to their folder: {shown}"


def _header_names(name: str, ending: str) -> list[str]:
    """Names that the header of a file of voxels with that ending may have."""
    return [name[: -len(ending)] + header for header in (".mhd", ".nhdr")] if name.lower().endswith(ending) else []


def _reason_of_file(file: Path) -> str | None:
    """Reason why a file is no scan; None for the voxels of an MHD or NHDR header."""
    suffix = file.suffix.lower()
    if suffix in (".hdr", ".img"):
        return PAIR
    if any(file.with_name(name).is_file() for ending in DETACHED for name in _header_names(file.name, ending)):
        return None
    return LOOSE if file.stat().st_size and _is_dicom(file) else NO_SCAN


def _problem(path: Path) -> str | None:
    """Reason why a path cannot be a scan although it may be meant as one, with the remedy."""
    if printable(path) != str(path):
        return NOT_UTF8
    if path.is_symlink() and not path.exists():
        return f"is a link to {printable(os.readlink(path))}, which does not exist; restore that or remove the link"
    return None


def discover_folder(folder: Path) -> Scans:
    """Find the scans directly in a folder: files, and folders of DICOM series.

    Raises:
        InputError: for a folder that cannot be opened.
    """
    scans = Scans()
    try:
        entries = sorted(folder.iterdir())
    except OSError as error:
        raise InputError(f"{printable(folder)}: cannot be opened ({error.strerror}); change its permissions") from None
    for path in entries:
        name = printable(path)
        if path.name.startswith("."):
            scans.unused.append((name, HIDDEN))
            continue
        try:
            meant = file_suffix(path) in VOLUMES or path.is_dir() or path.is_symlink()
            problem = _problem(path) if meant else None
            if problem:
                scans.append({"image": name, "problem": problem})
            elif path.is_file() and is_output(path):
                scans.unused.append((name, OUTPUT))
            elif (path.is_file() and file_suffix(path) in VOLUMES) or is_series(path) or (path.is_dir() and part_folders(path)):
                scans.append({"image": str(path)})
            elif path.is_dir():
                scans.unused.append((name, _reason_of_folder(path, folder)))
            elif (reason := _reason_of_file(path)) is not None:
                scans.unused.append((name, reason))
        except OSError as error:
            if path.name in RESERVED:
                scans.unused.append((name, f"cannot be opened ({error.strerror})"))
            else:
                problem = f"cannot be opened ({error.strerror}); change its permissions or move it elsewhere"
                scans.append({"image": name, "problem": problem})
    _join(scans)
    return scans


def _join(scans: Scans) -> None:
    """Make one scan of the folders that hold parts of one series: the first gets the others as its ``parts``.

    Folders that look like parts and are not joined have a ``remark``.
    """
    split = find_split_series(c["image"] for c in scans if "problem" not in c and Path(c["image"]).is_dir())
    others = {folder for group in split.joined for folder in group[1:]}
    parts = {first: rest for first, *rest in split.joined}
    scans[:] = [c for c in scans if c["image"] not in others]
    for case in scans:
        image = case["image"]
        if image in parts:
            case["parts"] = PART_SEPARATOR.join(parts[image])
        elif image in split.refused:
            case["problem"] = split.refused[image]
        if image in split.apart and image not in split.refused:
            case["remark"] = f"{image}: {split.apart[image]}"


def parts_of(case: Mapping[str, str]) -> list[str]:
    """Folders with the other slices of a DICOM series, besides the ``image`` of a scan."""
    return [p for p in case.get("parts", "").split(PART_SEPARATOR) if p]


def _add_remarks(scans: Scans) -> None:
    """Name the folders beside those of the scans that may hold other slices of their series."""
    folders = [c["image"] for c in scans if "problem" not in c and Path(c["image"]).is_dir()]
    remarks = part_remarks(folders)
    for case in scans:
        if case["image"] in remarks:
            case["remark"] = printable(remarks[case["image"]])


def discover_series(folder: Path) -> Scans:
    """Folder of one DICOM series as the only scan; its subfolders and other scans in it are not used."""
    scans = Scans([{"image": str(folder)}])
    if printable(folder) != str(folder):
        scans[0] = {"image": printable(folder), "problem": NOT_UTF8}
    else:
        _add_remarks(scans)
    for path in _visible(folder):
        if path.is_file() and file_suffix(path) in VOLUMES:
            scans.unused.append((printable(path), "lies in the folder of a DICOM series; move it elsewhere"))
        elif path.is_dir():
            scans.unused.append((printable(path), "a folder inside that of a DICOM series"))
    return scans


def _case(item: dict, number: int, file: Path, section: str) -> dict[str, str]:
    case = {k: item[k] for k in ("image", "vertebrae") if k in item}
    wrong = [k for k in ("image", "vertebrae") if k in case and not (isinstance(case[k], str) and case[k])]
    if "image" in case and not wrong:
        return case
    shown = f"has {wrong[0]}={case[wrong[0]]!r}" if wrong else "has no `image`"
    return {"image": f"{file}: {section}[{number}]", "problem": f"{shown}; must be the path of a file, or leave out the case"}


def discover_datalist(file: Path, section: str, folder: Path | None = None) -> Scans:
    """Scans of a section of a datalist; those of its other sections are not used.

    Args:
        file: datalist, JSON.
        section: "training", "validation" or "testing".
        folder: folder that was chosen in place of the datalist in it, whose other scans are named.
    """
    items = load_datalist(str(file), section)
    scans = Scans(_case(item, n, file.resolve(), section) for n, item in enumerate(items))
    _add_remarks(scans)
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
        listed = {s: content.get(s) or [] for s in SECTIONS}
    except (OSError, ValueError, AttributeError):
        return scans
    scans.unused += [
        (f"{file}: {other} ({len(cases)} case(s))", f"another section than {section}; set section")
        for other, cases in listed.items()
        if other != section and isinstance(cases, list) and cases
    ]
    if folder is not None:
        scans.unused += _not_listed(folder, listed.values())
    return scans


def _not_listed(folder: Path, sections: Iterable[Sequence]) -> list[tuple[str, str]]:
    """Scans directly in a folder that its datalist does not name."""
    items = [v for cases in sections for c in cases if isinstance(c, dict) for v in c.values() if isinstance(v, str)]
    named = {os.path.normpath(os.path.join(folder, v)) for v in items}
    found = [c["image"] for c in discover_folder(folder) if os.path.normpath(c["image"]) not in named]
    return [(path, "not named by the datalist.json beside it; add it, or set input to the file") for path in found]
