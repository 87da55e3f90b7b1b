# SPDX-License-Identifier: Apache-2.0
"""Locks of the folders of a training: two at the same time would overwrite each other's state and weights."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from ..core.errors import InputError, served
from ..core.folder_lock import HEARTBEAT_S, STALE_S, FolderLock
from .distributed.processes import is_main

LOCK = "training.lock.json"


def refuse_running(folder: str | Path) -> None:
    """Refuse a folder that a training on this machine writes to, before anything is read.

    Raises:
        InputError: one line with the process and the remedy.
    """
    lock = FolderLock(Path(folder), name=LOCK)
    if is_main() and not served() and lock.path.is_file() and lock.is_here():
        raise InputError(_refusal(lock.folder, lock.holder()))


@contextmanager
def exclusive(*folders: str | Path | None) -> Iterator[None]:
    """Exclude other trainings from the folders of a run.

    The lock of a training that was killed is void: on this machine at once, on another after two minutes, which this one waits.
    Of several processes of one training the first holds the locks; MONAI Label has one training at a time.

    Args:
        folders: folders of weights and state; None is none.

    Raises:
        InputError: one line, while another training writes to one of them.
    """
    with ExitStack() as stack:
        if is_main() and not served():
            for folder in sorted({Path(f).absolute() for f in folders if f is not None}):
                stack.enter_context(_locked(folder))
        yield


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    deadline = time.monotonic() + STALE_S + 2 * HEARTBEAT_S
    lock = FolderLock(folder, name=LOCK)
    lock.wait = lambda: time.monotonic() < deadline and not lock.is_here()
    if lock.path.is_file() and lock.is_here():
        raise InputError(_refusal(folder, lock.holder()))
    with lock:
        if not lock.acquired:
            raise InputError(_refusal(folder, lock.holder()))
        yield


def _refusal(folder: Path, holder: str | None) -> str:
    return (
        f"{folder}: another training writes to it ({holder or 'just ended'}); wait for its end, or choose another --run_name (or "
        "--ckpt_dir and --output_dir)"
    )
