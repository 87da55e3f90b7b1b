# SPDX-License-Identifier: Apache-2.0
"""Files of a run in the form in which they travel: weights in half precision, masks of one bit a voxel, parts of a limited size."""

from __future__ import annotations

import gzip
import hashlib
import io
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import torch

from ...core.errors import InputError
from ...core.files import atomic_write
from ...io.formats import stem

MAGIC = b"spine-fracture-results-1 "
PART_BYTES = 15_000_000
MOST_PARTS = 8
RANGE = (6e-5, 6e4)  # of absolute values that half precision stores with all its bits


def _walk(content: Any, change: Callable[[torch.Tensor], torch.Tensor]) -> Any:
    """Content with every tensor in nested mappings changed."""
    if isinstance(content, torch.Tensor):
        return change(content)
    return {k: _walk(v, change) for k, v in content.items()} if isinstance(content, Mapping) else content


def _half(tensor: torch.Tensor) -> torch.Tensor:
    """Kernels in half precision; statistics, biases and kernels out of its range stay as they are."""
    if tensor.dtype != torch.float32 or tensor.ndim < 2:
        return tensor
    size = tensor.abs()
    fits = bool(torch.isfinite(tensor).all()) and float(size.max()) < RANGE[1]
    return tensor.half() if fits else tensor


def pack_weights(path: Path) -> bytes:
    """Content of a file of weights with kernels of half precision."""
    buffer = io.BytesIO()
    torch.save(_walk(torch.load(path, map_location="cpu", weights_only=True), _half), buffer)
    return buffer.getvalue()


def unpack_weights(data: bytes, path: Path) -> None:
    """Write a file of weights in single precision, from the content that ``pack_weights`` returned."""
    content = torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)
    with atomic_write(path) as temporary:
        torch.save(_walk(content, lambda t: t.float() if t.dtype == torch.float16 else t), temporary)


def pack_masks(files: Sequence[Path]) -> bytes:
    """Masks of 0 and 1 with one bit a voxel, and their affine matrices."""
    arrays: dict[str, np.ndarray] = {}
    names = sorted(files)
    for number, file in enumerate(names):
        image = nib.load(file)
        voxels = np.asarray(image.dataobj) > 0  # type: ignore[attr-defined]
        arrays[f"bits{number}"] = np.packbits(voxels.ravel())
        arrays[f"shape{number}"], arrays[f"affine{number}"] = np.array(voxels.shape), image.affine  # type: ignore[attr-defined]
    arrays["names"] = np.array([stem(f) for f in names], dtype=np.str_)
    buffer = io.BytesIO()
    np.savez_compressed(buffer, **arrays)  # type: ignore[arg-type]
    return buffer.getvalue()


def unpack_masks(data: bytes, folder: Path) -> None:
    """Write masks as NIfTI files of 0 and 1 from the content that ``pack_masks`` returned."""
    with np.load(io.BytesIO(data), allow_pickle=False) as arrays:
        for number, name in enumerate(arrays["names"]):
            shape = tuple(int(n) for n in arrays[f"shape{number}"])
            voxels = np.unpackbits(arrays[f"bits{number}"], count=int(np.prod(shape))).reshape(shape)
            with atomic_write(folder / f"{Path(str(name)).name}.nii.gz") as temporary:
                nib.save(nib.Nifti1Image(voxels.astype(np.uint8), arrays[f"affine{number}"]), temporary)


def write_parts(
    files: Mapping[str, bytes], facts: Mapping[str, Any], folder: Path, name: str, part_bytes: int = PART_BYTES
) -> list[Path]:
    """Write files as numbered parts of a limited size, each with a line of facts and hashes; parts of an earlier call are removed.

    Args:
        files: content by relative path.
        facts: origin of the files, repeated in every part.
        folder: folder of the parts.
        name: beginning of their names.
        part_bytes: size of a part.
    """
    index = [[path, len(data)] for path, data in files.items()]
    body = gzip.compress(json.dumps(index).encode() + b"\n" + b"".join(files.values()), 6, mtime=0)
    total = hashlib.sha256(body).hexdigest()
    chunk = part_bytes - 10_000  # room for the line
    number = max(-(-len(body) // chunk), 1)
    folder.mkdir(parents=True, exist_ok=True)
    for old in folder.glob(f"{name}.*of*"):
        old.unlink()
    paths = []
    for k in range(number):
        data = body[k * chunk : (k + 1) * chunk]
        line = {**facts, "part": k + 1, "parts": number, "sha256": hashlib.sha256(data).hexdigest(), "whole": total}
        path = folder / f"{name}.{k + 1}of{number}"
        with atomic_write(path) as temporary:
            temporary.write_bytes(MAGIC + json.dumps(line).encode() + b"\n" + data)
        paths.append(path)
    return paths


def read_part(path: Path) -> tuple[dict[str, Any], bytes]:
    """Facts and content of one part; ``InputError`` when it is no part, cut off or damaged."""
    try:
        data = path.read_bytes()
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror}); name the parts that run.sh wrote") from None
    line, newline, body = data.partition(b"\n")
    if not line.startswith(MAGIC) or not newline:
        raise InputError(f"{path}: is no part of results; expected a file that run.sh wrote, such as NAME.1of2")
    try:
        facts = dict(json.loads(line[len(MAGIC) :]))
        expected, _ = facts["sha256"], facts["whole"]
    except (KeyError, TypeError, ValueError):
        raise InputError(f"{path}: is damaged in its first line; copy it again") from None
    if hashlib.sha256(body).hexdigest() != expected:
        raise InputError(f"{path}: is cut off or damaged; copy it again")
    return facts, body


def read_parts(paths: Sequence[Path]) -> list[tuple[dict[str, Any], dict[str, bytes]]]:
    """Facts and files of every set of parts, of which one given twice counts once; ``InputError`` for a missing or damaged one."""
    groups: dict[str, dict[int, tuple[dict[str, Any], bytes]]] = {}
    for path in paths:
        facts, body = read_part(path)
        groups.setdefault(facts["whole"], {})[int(facts["part"])] = facts, body
    results = []
    for parts in groups.values():
        facts = next(iter(parts.values()))[0]
        if missing := [k for k in range(1, int(facts["parts"]) + 1) if k not in parts]:
            raise InputError(
                f"part {missing[0]} of {facts['parts']} of the results of {facts.get('suite')} is missing; name all parts"
            )
        content = gzip.decompress(b"".join(parts[k][1] for k in sorted(parts)))
        index, _, data = content.partition(b"\n")
        files, offset = {}, 0
        for name, size in json.loads(index):
            if Path(name).is_absolute() or ".." in Path(name).parts:
                raise InputError(f"{paths[0]}: has a file outside the folder of results ({name}); use a file that run.sh wrote")
            files[name] = data[offset : offset + size]
            offset += size
        results.append((facts, files))
    return results
