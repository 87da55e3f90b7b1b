# SPDX-License-Identifier: Apache-2.0
"""Kinds of damaged input for `fuzz.py`: each makes one case in a folder, and raises ``WrongError`` where the answer is wrong."""

from __future__ import annotations

import gzip
import json
import math
import random
import struct
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import nibabel as nib
import numpy as np
import torch
from dicom_files import write_series
from fakes import Threshold
from scripts.core.config_values import RULES
from scripts.inference.case import Outputs
from scripts.inference.inputs import find_inputs
from scripts.inference.memory import parse_bytes
from scripts.inference.pipeline import Pipeline
from scripts.inference.predict import PatchConfig
from scripts.io.ct_volume import Scan
from scripts.io.scan_header import MAX_EXTENT_MM, read_header
from scripts.postprocessing.findings import PostProcessing
from scripts.training.weights import read_weights

SHAPE = (7, 6, 5)
UNITS = {code: np.diag([mm, mm, mm, 1.0]) for code, mm in ((0, 1.0), (1, 1000.0), (2, 1.0), (3, 1e-3))}
NUMBERS = (0, -1, 1, 1.5, 1e-3, 1e9, 2**31, 10**400, math.nan, math.inf, -math.inf)
VALUES = (*NUMBERS, True, None, "", "abc", "1", "1\\2", [], [1], [math.nan] * 3, [1, 2, 3], [[0]], {}, {"a": 1})
NIFTI_FIELDS = {  # offset and format of header fields
    "sizeof_hdr": (0, "i"), "dim0": (40, "h"), "dim1": (42, "h"), "dim2": (44, "h"), "dim3": (46, "h"), "dim4": (48, "h"),
    "datatype": (70, "h"), "bitpix": (72, "h"), "qfac": (76, "f"), "pixdim1": (80, "f"), "pixdim3": (88, "f"),
    "vox_offset": (108, "f"), "scl_slope": (112, "f"), "scl_inter": (116, "f"), "xyzt_units": (123, "b"),
    "qform_code": (252, "h"), "sform_code": (254, "h"), "quatern_b": (256, "f"), "qoffset_x": (268, "f"),
    "srow_x0": (280, "f"), "srow_x3": (292, "f"), "srow_y1": (300, "f"), "srow_z2": (320, "f"), "magic": (344, "i"),
}  # fmt: skip
DICOM_TEXT = ("RescaleSlope", "RescaleIntercept", "ImagePositionPatient", "ImageOrientationPatient", "PixelSpacing")
DICOM_COUNTS = ("Rows", "Columns", "BitsAllocated", "BitsStored", "PixelRepresentation", "SamplesPerPixel")
DICOM_OTHER = ("Modality", "ImageType", "PhotometricInterpretation", "SOPInstanceUID", "SeriesInstanceUID", "PixelData")
TEXTS = ("", "nan", "inf", "-1", "0", "1e400", "abc", "1\\2", "1\\0\\0\\0\\1", "-0.5\\-0.5", "0\\0", "99999999999999999999", None)
ITK_LINES = {
    "mha": ("NDims", "DimSize", "ElementSpacing", "TransformMatrix", "Offset", "ElementType", "BinaryData", "ElementDataFile"),
    "nrrd": ("type", "dimension", "sizes", "space", "space directions", "space origin", "endian", "encoding"),
}
ITK_VALUES = ("", "nan", "nan nan nan", "0 0 0", "-1 -1 -1", "70000 70000 70000", "1", "1 2", "abc", "1e400 1 1", "left-up", "3")


class WrongError(AssertionError):
    """Result that differs from the content of the input, without a remark."""


def _voxels(seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(-900, 1200, SHAPE).astype(np.int16)


def _affine() -> np.ndarray:
    affine = np.diag([-8.0, 8.0, 10.0, 1.0])
    affine[:3, 3] = (20.0, -30.0, 40.0)
    return affine


def _read(path: Path) -> tuple[np.ndarray, np.ndarray, tuple[str, ...]]:
    """Voxels (I, J, K), affine and remarks of the readers of inference."""
    header = read_header(path, require_volume=False)
    scan = Scan(header, expect_hu=False)
    voxels = scan.slab(0, header.shape[2]).transpose(2, 1, 0).copy()
    scan.close()
    if not np.isfinite(header.affine).all() or abs(np.linalg.det(header.affine[:3, :3])) < 1e-12:
        raise WrongError(f"affine {header.affine.tolist()}")
    if (np.array(header.shape) * header.spacing).max() > MAX_EXTENT_MM:
        raise WrongError(f"covers {header.shape} voxels of {header.spacing} mm")
    return voxels, header.affine, header.notes


def _require(found: tuple[np.ndarray, np.ndarray, tuple[str, ...]], voxels: np.ndarray, affine: np.ndarray, hu: int = 0) -> None:
    """Require equal voxels, within some HU, and an equal affine."""
    if found[0].shape != voxels.shape or np.abs(found[0].astype(int) - voxels.astype(int)).max(initial=0) > hu:
        raise WrongError(f"voxels {found[0].shape} differ from {voxels.shape}")
    if not np.allclose(found[1], affine, atol=1e-2):
        raise WrongError(f"affine {found[1].tolist()} instead of {affine.tolist()}")


def _nifti_bytes() -> bytes:
    image = nib.Nifti1Image(_voxels(), _affine())
    image.set_qform(_affine(), 1)
    image.header.set_xyzt_units("mm")
    return image.to_bytes()


def _damage(draw: random.Random, raw: bytes) -> bytes:
    """Bytes with a part cut off, flipped, repeated or replaced at random."""
    data, kind = bytearray(raw), draw.randrange(5)
    if kind == 0:
        return bytes(data[: draw.randrange(len(data))])
    if kind == 1:
        return draw.randbytes(draw.choice((0, 1, 4, 132, 352, 4000)))
    if kind == 2:
        at = draw.randrange(len(data))
        return bytes(data[:at] + data[at : at + draw.randrange(64)] + data[at:])
    for _ in range(1 if kind == 3 else 16):
        data[draw.randrange(len(data))] ^= 1 << draw.randrange(8)
    return bytes(data)


def _compare_with_nibabel(path: Path) -> None:
    found = _read(path)
    image = nib.load(path)
    data = np.asarray(image.dataobj)
    data = data.reshape(found[0].shape) if data.size == found[0].size else data
    scaled = (image.dataobj.slope, image.dataobj.inter) != (1.0, 0.0)  # in single precision, so that halves round either way
    unit = UNITS[int(image.header["xyzt_units"]) & 7]
    _require(found, np.rint(np.clip(data, -32768, 32767)).astype(np.int16), unit @ image.affine, int(scaled))


def nifti_header(draw: random.Random, folder: Path) -> None:
    """One header field of a NIfTI file at a special value."""
    raw = bytearray(_nifti_bytes())
    name = draw.choice(sorted(NIFTI_FIELDS))
    offset, kind = NIFTI_FIELDS[name]
    limit = {"b": 2**7, "h": 2**15, "i": 2**31}.get(kind)
    if limit is None:
        struct.pack_into("<f", raw, offset, draw.choice([float(n) for n in NUMBERS if n != 10**400]))
    else:
        value = draw.choice((0, -1, 1, 2, 3, 4, 16, 128, limit - 1, -limit))
        struct.pack_into(f"<{kind}", raw, offset, max(min(value, limit - 1), -limit))
    path = folder / "a.nii"
    path.write_bytes(raw)
    _compare_with_nibabel(path)


def nifti_bytes(draw: random.Random, folder: Path) -> None:
    """Damaged bytes of a NIfTI file, plain or compressed; of the latter nothing but the original may be read."""
    raw = _nifti_bytes()
    if draw.random() < 0.5:
        path = folder / "a.nii"
        path.write_bytes(_damage(draw, raw))
        _compare_with_nibabel(path)
    else:
        path = folder / "a.nii.gz"
        path.write_bytes(_damage(draw, gzip.compress(raw, mtime=0)))
        _require(_read(path), _voxels(), _affine())


def itk_header(draw: random.Random, folder: Path) -> None:
    """One line of an MHA or NRRD header at a special value, left out or twice; else the original."""
    kind = draw.choice(("mha", "nrrd"))
    path, raw = folder / f"a.{kind}", _voxels().tobytes(order="F")
    if kind == "mha":
        values = ["3", "7 6 5", "8 8 10", "1 0 0 0 1 0 0 0 1", "-20 30 40", "MET_SHORT", "True", "LOCAL"]
        sign, before, after = " = ", ["ObjectType = Image", "BinaryDataByteOrderMSB = False"], b""
    else:
        values = ["short", "3", "7 6 5", "left-posterior-superior", "(8,0,0) (0,8,0) (0,0,10)", "(-20,30,40)", "little", "raw"]
        sign, before, after = ": ", ["NRRD0004"], b"\n"
    lines, number = list(zip(ITK_LINES[kind], values, strict=True)), draw.randrange(8)
    name, action = lines[number][0], draw.randrange(4)
    text = draw.choice(ITK_VALUES)
    changed = {0: [], 1: [lines[number]] * 2}.get(action, [(name, text)])
    lines[number : number + 1] = changed
    header = "\n".join([*before, *(f"{k}{sign}{v}" for k, v in lines)]) + "\n"
    path.write_bytes(header.encode() + after + raw)
    found = _read(path)
    if action == 1 or name not in ("ElementSpacing", "Offset", "space origin", "space directions", "TransformMatrix"):
        affine = np.diag([-8.0, -8.0, 10.0, 1.0])
        affine[:3, 3] = (20.0, -30.0, 40.0)
        _require(found, _voxels(), affine)


def _reference_series(folder: Path) -> tuple[np.ndarray, np.ndarray]:
    """Volume and affine of a series by pydicom alone."""
    import pydicom

    slices = sorted((pydicom.dcmread(f) for f in folder.glob("*.dcm")), key=lambda d: float(d.ImagePositionPatient[2]))
    stack = [np.clip(np.rint(d.pixel_array * float(d.RescaleSlope) + float(d.RescaleIntercept)), -32768, 32767) for d in slices]
    first, last = (np.array([float(v) for v in s.ImagePositionPatient]) for s in (slices[0], slices[-1]))
    spacing = [float(v) for v in slices[0].PixelSpacing]
    rows, columns = (np.array([float(v) for v in slices[0].ImageOrientationPatient[n : n + 3]]) for n in (0, 3))
    affine = np.eye(4)
    affine[:3, 0], affine[:3, 1] = rows * spacing[1], columns * spacing[0]
    affine[:3, 2], affine[:3, 3] = (last - first) / (len(slices) - 1), first
    return np.stack(stack).astype(np.int16).transpose(2, 1, 0), np.diag([-1.0, -1.0, 1.0, 1.0]) @ affine


_SERIES: dict[str, list[bytes]] = {}


def _series(folder: Path) -> list[Path]:
    """Series of five slices in a new folder."""
    target = folder / "series"
    if not _SERIES:
        files = write_series(target, _voxels().transpose(2, 1, 0), step=np.array([0, 0, 10.0]))
        _SERIES["files"] = [f.read_bytes() for f in files]
    target.mkdir(exist_ok=True)
    paths = [target / f"{k}.dcm" for k in range(len(_SERIES["files"]))]
    for path, raw in zip(paths, _SERIES["files"], strict=True):
        path.write_bytes(raw)
    return paths


def _compare_with_pydicom(folder: Path) -> None:
    found = _read(folder)
    if found[2]:
        return  # with a remark
    try:
        expected = _reference_series(folder)
    except Exception as error:
        raise WrongError(f"read without a remark, which pydicom refuses ({type(error).__name__}: {error})") from None
    _require(found, *expected)


def dicom_elements(draw: random.Random, folder: Path) -> None:
    """One element of one or all slices of a DICOM series at a special value, or left out."""
    import pydicom

    paths = _series(folder)
    name = draw.choice((*DICOM_TEXT, *DICOM_COUNTS, *DICOM_OTHER))
    value = draw.choice((0, 1, 6, 7, 8, 12, 65535, None) if name in DICOM_COUNTS else TEXTS)
    if name == "PixelData":
        value = draw.choice((b"", b"\0\0", bytes(10**5), None))
    for path in paths if draw.random() < 0.5 else [draw.choice(paths)]:
        data = pydicom.dcmread(path)
        with suppress(Exception):  # pydicom refuses some values itself
            if value is None:
                delattr(data, name)
            else:
                data[name]._value = value if not isinstance(value, str) or "\\" not in value else value.split("\\")
        with suppress(Exception):
            data.save_as(path)
    _compare_with_pydicom(folder / "series")


def dicom_bytes(draw: random.Random, folder: Path) -> None:
    """Damaged bytes of a slice of a DICOM series."""
    path = draw.choice(_series(folder))
    path.write_bytes(_damage(draw, path.read_bytes()))
    _compare_with_pydicom(folder / "series")


def discovery(draw: random.Random, folder: Path) -> None:
    """Folder of damaged and odd files: every one is a scan, a scan with a problem, or named as not used."""
    names = ("a.nii", "b.nii.gz", "c.dcm", "d", "e.mha", "f.json", "._g.dcm", "h.NII.GZ", "i_fracture.nii.gz", "j:k.nrrd", "l.hdr")
    chosen = draw.sample(names, draw.randrange(1, len(names)))
    for name in chosen:
        (folder / name).write_bytes(_damage(draw, draw.choice((_nifti_bytes(), bytes(128) + b"DICM" + bytes(200)))))
    if draw.random() < 0.3:
        (folder / "gone.nii.gz").symlink_to(folder / "nowhere")
    found = find_inputs(str(folder))
    if len(found) + len(found.unused) < 1 or any(not isinstance(c.get("image"), str) for c in found):
        raise WrongError(f"{list(found)} of {chosen}")
    entries = {p.name for p in folder.iterdir()}
    named = {Path(c["image"]).name for c in found} | {Path(p).name for p, _ in found.unused}
    if not any(Path(c["image"]) == folder for c in found) and (entries - named):
        raise WrongError(f"{sorted(entries - named)} is in no list")


def datalists(draw: random.Random, folder: Path) -> None:
    """Datalist of JSON values at random; every case of the section is one scan, or the file is refused."""

    def value(depth: int = 3) -> object:
        kind = draw.randrange(4 if depth else 2)
        if kind == 3:
            return {draw.choice(("image", "label", "vertebrae", "x")): value(depth - 1) for _ in range(draw.randrange(3))}
        if kind == 2:
            return [value(depth - 1) for _ in range(draw.randrange(4))]
        return draw.choice((None, True, 5, math.nan, "", "a.nii", "/nowhere/a.nii.gz", "\0", "../..", "x" * 5000))

    sections = ("training", "validation", "testing")
    content = draw.choice((value(), {s: value() for s in sections}, {"testing": [{"image": value(0)} for _ in range(3)]}))
    file = folder / draw.choice(("datalist.json", "other.json"))
    file.write_bytes(_damage(draw, json.dumps(content).encode()) if draw.random() < 0.3 else json.dumps(content).encode())
    found = find_inputs(str(file))
    for case in found:
        if not isinstance(case.get("image"), str) or not case["image"]:
            raise WrongError(f"case {case}")
    try:
        listed = json.loads(file.read_bytes())["testing"]
        number = len(listed) if isinstance(listed, list) and all(isinstance(c, dict) for c in listed) else 0
    except (ValueError, KeyError, TypeError):
        number = 0
    if len(found) != number:
        raise WrongError(f"{len(found)} of {number} cases")


_WEIGHTS: dict[str, bytes] = {}


def checkpoints(draw: random.Random, folder: Path) -> None:
    """Damaged file of weights: refused, or the tensors are those that were saved."""
    path = folder / "model.pt"
    state = {"a": torch.arange(300.0).reshape(3, 100), **Threshold().state_dict()}
    if not _WEIGHTS:
        torch.save(state, path)
        _WEIGHTS["raw"] = path.read_bytes()
    if draw.random() < 0.1:
        torch.save(draw.choice((5, [], {"a": None}, {"a": torch.tensor(math.nan)}, "text", {1: torch.ones(2)})), path)
        read_weights(path)
        return
    path.write_bytes(_damage(draw, _WEIGHTS["raw"]))
    found, _ = read_weights(path)
    if set(found) != set(state) or not all(torch.equal(found[k], state[k]) for k in state):
        raise WrongError("other tensors than those saved")


def config_values(draw: random.Random, folder: Path) -> None:
    """Setting of a component at a special value: refused by its name, or a value in range."""
    size: dict[str, object] = {"size": [64, 64]}
    targets: list[tuple[Callable[[dict], object], tuple[str, ...]]] = [
        (
            lambda a: PatchConfig.from_config(size | a),
            ("size", "hu", "outside_hu", "overlap", "blend", "neighbours", "neighbour_step", "flips", "sw_batch_size"),
        ),
        (lambda a: PostProcessing.from_config(a), tuple(PostProcessing.__dataclass_fields__)),
        (
            lambda a: Pipeline({"sagittal": []}, PatchConfig((64, 64)), **a),
            ("spacing", "search", "coarse_mm", "coarse_threshold", "cortex_mm"),
        ),
        (lambda a: Outputs(**a), tuple(Outputs.__dataclass_fields__)),
        (lambda a: parse_bytes(a["max_memory"]), ("max_memory",)),
    ]  # fmt: skip
    build, names = draw.choice(targets)
    name, value = draw.choice(names), draw.choice(VALUES)
    try:
        build({name: value})
    except ValueError as error:
        raise ValueError(f"{folder}: {error}") from None  # these lines name a setting, not a file
    rule = RULES.get({"size": "patch_size", "hu": "hu_window"}.get(name, name))
    text = isinstance(value, str) and value == "1"
    if rule is not None and not text and not rule.test(value):
        raise WrongError(f"{name}={value!r} was accepted")


KINDS = (nifti_header, nifti_bytes, itk_header, dicom_elements, dicom_bytes, discovery, datalists, checkpoints, config_values)
