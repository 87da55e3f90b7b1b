# SPDX-License-Identifier: Apache-2.0
"""Atomic files of weights and states of a training; states have a hash and a previous version."""

from __future__ import annotations

import hashlib
import io
import logging
import os
import shutil
from pathlib import Path
from typing import Any

import torch

from ..core.errors import InputError, first_line
from ..core.files import atomic_write

logger = logging.getLogger(__name__)
MAGIC = b"spine-fracture-state-1 "
PREVIOUS = ".previous"


def write_checkpoint(path: Path, content: object, header: bool = False) -> None:
    """Serialise ``content`` by ``torch.save``, atomically and flushed to disk.

    Args:
        path: file.
        content: object that ``torch.save`` accepts.
        header: precede it by a line with its hash, and keep the previous file.

    Raises:
        OSError: with the name of the file and the reason, which PyTorch's own writer lacks.
    """
    buffer = io.BytesIO()
    torch.save(content, buffer)
    data = buffer.getbuffer()
    try:
        with atomic_write(path) as temporary:
            with temporary.open("wb") as file:
                if header:
                    file.write(MAGIC + hashlib.sha256(data).hexdigest().encode() + b"\n")
                file.write(data)
                file.flush()
                os.fsync(file.fileno())  # after a power failure the new name must not have old blocks
            if header and path.is_file():
                _keep_previous(path)
    except OSError as error:
        raise OSError(error.errno, error.strerror, str(path)) from None


def previous_path(path: Path) -> Path:
    """File of the state before the last one."""
    return path.with_name(f"{path.stem}{PREVIOUS}{path.suffix}")


def _keep_previous(path: Path) -> None:
    """Link or copy a file to the name of the previous state; it always exists under its own name."""
    with atomic_write(previous_path(path)) as temporary:
        try:
            os.link(path, temporary)
        except OSError:  # a file system without hard links
            shutil.copyfile(path, temporary)


def read_state(path: Path, device: str | torch.device) -> tuple[dict[str, Any] | None, Path]:
    """Read the newest intact state: the file, or the previous one.

    Args:
        path: file of the state.
        device: where its tensors are mapped to.

    Returns:
        The content and its file; None in place of the content when there is no state.

    Raises:
        InputError: when there are states and none is intact.
    """
    problems = []
    for file in (path, previous_path(path)):
        if not file.is_file():
            continue
        try:
            return _read(file, device), file
        except Exception as error:
            problems.append(f"{file}: cannot be resumed from ({first_line(error)})")
            logger.warning("%s", problems[-1])
    if problems:
        raise InputError(f"{problems[0]}; set --resume False to start from scratch")
    return None, path


def _read(file: Path, device: str | torch.device) -> dict[str, Any]:
    data = file.read_bytes()
    head, _, body = data.partition(b"\n")
    if not head.startswith(MAGIC):
        raise ValueError("it is not the state of a training, or one of an older version")
    if hashlib.sha256(body).hexdigest().encode() != head[len(MAGIC) :]:
        raise ValueError("its hash is wrong: it is truncated or damaged")
    return dict(torch.load(io.BytesIO(body), map_location=device, weights_only=True))


def delete_state(path: Path) -> None:
    """Delete a state and the previous one."""
    for file in (path, previous_path(path)):
        file.unlink(missing_ok=True)
