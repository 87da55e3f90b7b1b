# SPDX-License-Identifier: Apache-2.0
"""Checkpoints that are whole or not there: written under another name first, guarded by a hash, the last good one kept."""

from __future__ import annotations

import hashlib
import io
import logging
import os
import shutil
from pathlib import Path
from typing import Any

import monai.handlers
import torch
from ignite.engine import Engine

from ..core.errors import InputError
from ..core.files import atomic_write

logger = logging.getLogger(__name__)
MAGIC = b"spine-fracture-state-1 "
PREVIOUS = ".previous"


class CheckpointSaver(monai.handlers.CheckpointSaver):
    """MONAI's saver, whose files are whole at any moment.

    MONAI deletes the best weights before it writes better ones, and writes them piece by piece: whoever reads the file then, or
    kills the run, has none or half of it. And it saves final weights when a run fails, which may be the ones that no longer hold
    numbers; here a failed run saves none.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        for checkpoint in (self._final_checkpoint, self._key_metric_checkpoint, self._interval_checkpoint):
            if checkpoint is not None:
                handler = checkpoint.save_handler
                handler._save_func = _save_whole
                if handler.filename is not None:  # the new file takes the name of the old one
                    handler.remove = lambda filename: None

    def exception_raised(self, engine: Engine, e: Exception) -> None:
        """Let the exception pass."""
        raise e


def _save_whole(checkpoint: object, path: str, *args: Any, **kwargs: Any) -> None:
    write_checkpoint(Path(path), checkpoint)


def write_checkpoint(path: Path, content: object, header: bool = False) -> None:
    """Write what ``torch.save`` makes of ``content``, through a temporary name and down to the disk.

    Args:
        path: file.
        content: as for ``torch.save``.
        header: put a line with the hash of the rest in front.

    Raises:
        OSError: with the name of the file; PyTorch's own writer would say neither which file nor why.
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
                os.fsync(file.fileno())  # a machine that goes down must not leave the new name with old blocks
            if header and path.is_file():
                _keep(path)
    except OSError as error:
        raise OSError(error.errno, error.strerror, str(path)) from None


def previous(path: Path) -> Path:
    """File of the state before the last one."""
    return path.with_name(f"{path.stem}{PREVIOUS}{path.suffix}")


def _keep(path: Path) -> None:
    """Give the file a second name; at no moment is it missing under the first."""
    with atomic_write(previous(path)) as temporary:
        try:
            os.link(path, temporary)
        except OSError:  # a file system without links
            shutil.copyfile(path, temporary)


def read_state(path: Path, device: str | torch.device) -> tuple[dict[str, Any] | None, Path]:
    """Read the newest state that is whole: the file, or the one before it.

    Args:
        path: file of the state.
        device: where its tensors are mapped to.

    Returns:
        The content and its file; None when there is no state at all.

    Raises:
        InputError: when there are states and none is whole.
    """
    problems = []
    for file in (path, previous(path)):
        if not file.is_file():
            continue
        try:
            return _read(file, device), file
        except Exception as error:
            reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
            problems.append(f"{file}: cannot be taken up again ({reason})")
            logger.warning("%s", problems[-1])
    if problems:
        raise InputError(f"{problems[0]}; give --resume False to start anew")
    return None, path


def _read(file: Path, device: str | torch.device) -> dict[str, Any]:
    data = file.read_bytes()
    head, _, body = data.partition(b"\n")
    if not head.startswith(MAGIC):
        raise ValueError("it is no state of a training, or one of an older version")
    if hashlib.sha256(body).hexdigest().encode() != head[len(MAGIC) :]:
        raise ValueError("its hash is wrong: it is cut short or damaged")
    return dict(torch.load(io.BytesIO(body), map_location=device, weights_only=True))


def forget_state(path: Path) -> None:
    """Delete a state and the one before it."""
    for file in (path, previous(path)):
        file.unlink(missing_ok=True)
