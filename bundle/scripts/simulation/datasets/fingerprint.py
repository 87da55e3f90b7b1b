# SPDX-License-Identifier: Apache-2.0
"""Identity of a simulated data set: hashes of its code, settings and voxels, and a fingerprint that rounding does not change.

The voxels depend on the processor and on the version of NumPy in single units of HU (docs/history/data_hashes.md), so that their
hash holds for one environment. Settings and code have the same hash on every machine, and fingerprints are compared within
tolerances (``compare_builds``).
"""

from __future__ import annotations

import hashlib
import json
import platform
from collections.abc import Iterable, Mapping
from pathlib import Path, PureWindowsPath

import nibabel as nib
import numpy as np
from nibabel.orientations import aff2axcodes
from numpy.typing import NDArray
from scipy import ndimage
from tqdm import tqdm

from ...core.files import write_text
from ...core.paths import BUNDLE
from ...data.datalist import FILE_KEYS, SECTIONS
from ...io.formats import NIFTI, file_suffix, read_volume, stem
from ...io.label_maps import read_label_map

FILE_NAME = "fingerprint.json"
FORMAT = 1  # raised with every change of the content of a fingerprint
SAMPLES = 24  # voxels whose HU are part of the fingerprint
STEP = 2654435761  # of their positions modulo the number of voxels; prime, so that they spread over the whole scan
# Code outside the folder of the simulation that the voxels depend on; tests/simulation/datasets/test_fingerprint.py compares.
DEPENDENCIES = ("core/genant.py", "core/vertebrae.py", "postprocessing/vertebra_frame.py")
BOOKKEEPING = (
    "build.py",
    "compare_builds.py",
    "fingerprint.py",
    "source_record.py",
)  # files of this folder that no voxel depends on

Sections = Mapping[str, list[dict[str, str]]]


def code_hash(scripts: Path = BUNDLE / "scripts") -> str:
    """SHA-256 of all files that make the data, with the line ends of Linux.

    Args:
        scripts: folder of the rooms.
    """
    files = [p for p in (scripts / "simulation").rglob("*") if p.is_file() and "__pycache__" not in p.parts]
    files = [p for p in files if p.parent.name != "datasets" or p.name not in BOOKKEEPING]
    digest = hashlib.sha256()
    for name, path in sorted((p.relative_to(scripts).as_posix(), p) for p in [*files, *(scripts / d for d in DEPENDENCIES)]):
        digest.update(name.encode() + b"\0" + path.read_bytes().replace(b"\r\n", b"\n"))
    return digest.hexdigest()


def machine() -> str:
    """Architecture of the processor and the vector instructions that NumPy uses on it, by which powers are rounded."""
    found = np.show_config(mode="dicts")["SIMD Extensions"].get("found", [])  # type: ignore[index, call-overload]
    return f"{platform.machine()}, NumPy with {' '.join(found) or 'its baseline'}"


def settings_hash(parts: Mapping[str, Mapping[str, object]], cases: Mapping[str, Iterable[str]]) -> str:
    """SHA-256 of the options of a recipe and of the cases by section.

    It depends neither on the order of options and cases, nor on the folders of files, of which only the names count.

    Args:
        parts: options by part of the recipe.
        cases: names by section.
    """

    def portable(value: object) -> object:
        if isinstance(value, list | tuple):
            return [portable(item) for item in value]
        return PureWindowsPath(value).name if isinstance(value, str) and ("/" in value or "\\" in value) else value

    content = {
        "parts": {part: {name: portable(value) for name, value in options.items()} for part, options in parts.items()},
        "cases": {section: sorted(names) for section, names in cases.items()},
    }
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def _case_name(case: Mapping[str, str], root: Path, taken: Mapping[str, object]) -> str:
    """Part and name of a case, such as ``phantom/phantom-0001``, unique in the set."""
    paths = [Path(case[key]) for key in FILE_KEYS if key in case]
    # Of scans that stay in a folder of their own, only the label is in the set.
    path = next((p for p in paths if p.is_relative_to(root)), paths[0])
    base = f"{path.relative_to(root).parts[0]}/{stem(path)}" if path.is_relative_to(root) else stem(path)
    name, number = base, 1
    while name in taken:
        number += 1
        name = f"{base} ({number})"
    return name


def _regions(labels: NDArray, affine: NDArray, image: NDArray | None) -> dict[str, list[float]]:
    """By label value, other than 0: voxels, centroid (R, A, S) in mm to 0.1 mm and, of an image, mean HU to 0.1 HU."""
    whole = labels.astype(np.int32) if labels.dtype.kind in "iub" else np.rint(labels).astype(np.int32)
    regions = {}
    for value, box in enumerate(ndimage.find_objects(whole), start=1):
        if box is not None:
            inside = whole[box] == value
            index = np.array([i.mean() for i in np.nonzero(inside)]) + [b.start for b in box]
            regions[str(value)] = [int(inside.sum()), *(round(float(c), 1) for c in affine[:3, :3] @ index + affine[:3, 3])]
            if image is not None:
                regions[str(value)].append(round(float(image[box][inside].mean(dtype=float)), 1))
    return regions


def case_fingerprint(arrays: Mapping[str, NDArray], affine: NDArray) -> dict:
    """Fingerprint of one case.

    Args:
        arrays: (X, Y, Z) ``image`` in HU, ``label`` and ``vertebrae``, those that there are.
        affine: (4, 4) voxel to world (R, A, S) in mm.

    Returns:
        ``shape``, ``axes`` such as "PIR", ``spacing`` and ``origin`` in mm; ``mean``, ``std`` and ``samples`` of the image in HU;
        ``label`` and ``vertebrae``: by value number of voxels, centroid in mm and, of vertebrae, mean HU.
    """
    image = arrays.get("image")
    facts: dict = {
        "shape": list(next(iter(arrays.values())).shape),
        "axes": "".join(str(c) for c in aff2axcodes(affine)),
        "spacing": [round(float(s), 3) for s in np.linalg.norm(affine[:3, :3], axis=0)],
        "origin": [round(float(c), 2) for c in affine[:3, 3]],
    }
    if image is not None:
        positions = (np.arange(1, SAMPLES + 1, dtype=np.int64) * STEP) % image.size
        facts["mean"], facts["std"] = round(float(image.mean(dtype=float)), 1), round(float(image.std(dtype=float)), 1)
        facts["samples"] = [round(float(v)) for v in image[np.unravel_index(positions, image.shape)]]
    for key in ("label", "vertebrae"):
        if key in arrays:
            # An image on another grid has no HU at the voxels of the mask.
            same = image if key == "vertebrae" and image is not None and image.shape == arrays[key].shape else None
            facts[key] = _regions(arrays[key], affine, same)
    return facts


def _volume(key: str, path: str) -> nib.Nifti1Image:
    own = file_suffix(path) in NIFTI and Path(path).is_file()
    return nib.load(path) if own else read_volume(path) if key == "image" else read_label_map(path)


def identify(sections: Sections, root: Path) -> tuple[str, dict[str, dict]]:
    """Hash of the voxels of a set, and the fingerprint of every case; neither depends on the compression or folder of the files.

    Args:
        sections: cases by section, with absolute paths.
        root: folder of the set.

    Returns:
        SHA-256 of voxels, grids and sections, of one environment and order of cases; fingerprint by name of the case.
    """
    digest = hashlib.sha256()
    fingerprints: dict[str, dict] = {}
    cases = [(s, case) for s in SECTIONS for case in sections[s]]
    for section, case in tqdm(cases, desc="hashing files", unit="scan"):
        digest.update(section.encode())
        # Masks of a folder of TotalSegmentator, or of another format, are read as every command reads them.
        files = {key: _volume(key, case[key]) for key in FILE_KEYS if key in case}
        arrays = {key: np.ascontiguousarray(np.asanyarray(file.dataobj)) for key, file in files.items()}
        for key, array in arrays.items():
            digest.update(f"{key}{array.shape}{array.dtype.str}".encode())
            digest.update(np.round(files[key].affine, 4).astype("<f8").tobytes())
            digest.update(array.tobytes())
        affine = next(iter(files.values())).affine
        fingerprints[_case_name(case, root.resolve(), fingerprints)] = {"section": section, **case_fingerprint(arrays, affine)}
    return digest.hexdigest(), fingerprints


def write_fingerprints(path: Path | str, fingerprints: Mapping[str, dict]) -> None:
    """Write fingerprints as JSON, one case per line in the order of their names."""
    lines = [f"{json.dumps(name)}: {json.dumps(fingerprints[name])}" for name in sorted(fingerprints)]
    write_text(path, f'{{"format": {FORMAT}, "cases": {{\n' + ",\n".join(lines) + "\n}}\n")
