# SPDX-License-Identifier: Apache-2.0
"""Checksums inside files of weights and exported models, so that a damaged file is not used.

The archives of ``torch.save`` and TorchScript hold a CRC-32 of every tensor, which PyTorch's own reader does not compare. ONNX and
OpenVINO IR have none; exports of this bundle hold the SHA-256 of their bytes, computed with zeros in its place.
"""

from __future__ import annotations

import hashlib
import re
import zipfile
import zlib
from pathlib import Path

import torch

from ..core.errors import InputError

ARCHIVE = b"PK\x03\x04"
DIRECTORY = 0x10  # attribute of an entry; PyTorch returns no content for it
KEY = "file_sha256"  # of an exported model's metadata
UNSEALED = "0" * 64  # its value while it is computed
SEAL = re.compile(rb"(?<=" + KEY.encode() + rb')(?:\x12\x40| value=")([0-9a-f]{64})')  # in ONNX's protobuf, and in XML
NO_CHECKSUM = "has no checksums, as files of earlier versions; damage of its tensors is not noticed"
DAMAGED = "its weights are damaged; copy the file again from its source"


def archive_problem(path: Path) -> str | None:
    """Reason why a zip archive of tensors is damaged, None where every entry has its CRC-32.

    Files that ``torch.serialization.set_crc32_options(False)`` wrote have wrong ones and count as damaged.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            bad = archive.testzip() or next((i.filename for i in archive.infolist() if i.external_attr & DIRECTORY), None)
    except (zipfile.BadZipFile, zlib.error, NotImplementedError, EOFError, ValueError) as error:
        return f"cannot be read as an archive ({error})"
    return None if bad is None else f"the entry {bad} has a wrong checksum"


def _digest(path: Path) -> tuple[str | None, str]:
    """Stored and computed SHA-256 of an exported model; of OpenVINO IR, that of both files."""
    content = path.read_bytes()
    found = SEAL.search(content)
    if found is None:
        return None, ""
    start, end = found.span(1)
    digest = hashlib.sha256(content[:start] + UNSEALED.encode() + content[end:])
    tensors = path.with_suffix(".bin")
    if path.suffix.lower() == ".xml" and tensors.is_file():
        digest.update(tensors.read_bytes())
    return found[1].decode(), digest.hexdigest()


def seal(path: Path) -> None:
    """Replace the value of ``KEY`` in an exported model by the SHA-256 of its bytes.

    Raises:
        ValueError: for a file without it.
    """
    stored, computed = _digest(path)
    if stored != UNSEALED:
        raise ValueError(f"{path}: has no entry {KEY} of zeros")
    content = path.read_bytes()
    start, end = SEAL.search(content).span(1)  # type: ignore[union-attr]  # found before
    path.write_bytes(content[:start] + computed.encode() + content[end:])


def check_file(path: Path) -> str | None:
    """Compare a file of weights or an exported model with its checksums.

    Args:
        path: file (.pt, .ts, .onnx, .xml).

    Returns:
        Note on a file without checksums, else None.

    Raises:
        InputError: one line with the file, for a damaged one.
    """
    if path.suffix.lower() in (".onnx", ".xml"):
        stored, computed = _digest(path)
        if stored is not None and stored != computed:
            raise InputError(f"{path}: its SHA-256 is not the one that it holds; {DAMAGED}")
        return f"{path}: {NO_CHECKSUM}" if stored is None else None
    with path.open("rb") as file:
        archive = file.read(len(ARCHIVE)) == ARCHIVE  # as PyTorch distinguishes its two formats
    if not archive:
        return f"{path}: {NO_CHECKSUM}"
    if (problem := archive_problem(path)) is not None:
        raise InputError(f"{path}: {problem}; {DAMAGED}")
    return None


def check_finite(state: object, path: Path) -> None:
    """Refuse tensors with NaN or infinite values.

    Raises:
        InputError: one line with the file and the tensor.
    """
    for name, value in state.items() if isinstance(state, dict) else ():
        if isinstance(value, torch.Tensor) and value.is_floating_point() and not bool(torch.isfinite(value).all()):
            raise InputError(f"{path}: {name} contains NaN or infinite values; use weights of a training that converged")
