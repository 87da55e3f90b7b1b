# SPDX-License-Identifier: Apache-2.0
"""Exclusive use of a folder, among processes and among machines that share it."""

from __future__ import annotations

import json
import os
import socket
import threading
import time
import uuid
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from .process_id import process_exists

HEARTBEAT_S = 15.0  # interval at which a lock is renewed
STALE_S = 120.0  # age at which a lock that was not renewed is void
_held: set[str] = set()  # identifiers of the locks of this process


class FolderLock:
    """Exclusive use of a folder, also among machines that share it; ``acquired`` is False while another process holds it.

    A file, ``lock.json``, is created exclusively and renewed by a thread. A lock that was not renewed for ``STALE_S`` seconds, or
    whose process on this machine has ended (not on Windows), is void and removed by a rename, in which only one process succeeds.
    Ages are measured by the clock of the storage, since the clocks of machines differ. While another process holds the lock,
    ``wait`` is called every second; waiting ends when it returns False.

    Args:
        folder: folder, which is created.
        wait: called while another process holds the lock; None does not wait.
        name: name of the file, for locks of different purposes in one folder.
    """

    def __init__(self, folder: Path, wait: Callable[[], bool] | None = None, name: str = "lock.json") -> None:
        self.folder, self.path, self.wait = Path(folder), Path(folder) / name, wait
        self.acquired, self._id = False, uuid.uuid4().hex
        self._released = threading.Event()

    def holder(self) -> str | None:
        """Holder as "host, process N"; None for a free folder or a void lock."""
        try:
            age = self._storage_time() - self.path.stat().st_mtime
            content = self._content()
        except FileNotFoundError:
            return None
        if age > STALE_S or (content.get("host") == socket.gethostname() and not _runs(content)):
            return None
        return f"{content.get('host', 'another machine')}, process {content.get('pid', '?')}"

    def is_here(self) -> bool:
        """True for the lock of a running process of this machine."""
        return (self.holder() or "").startswith(f"{socket.gethostname()}, ")

    def is_stale(self) -> bool:
        """True for the lock of a process that ended without releasing it; not for one that is released at this moment."""
        with suppress(FileNotFoundError):
            content = self.path.read_bytes()
            return self.holder() is None and self.path.read_bytes() == content
        return False

    def _content(self) -> dict[str, Any]:
        """Content of the file; empty for one that was cut off while it was written, or that is none of this class."""
        try:
            content = json.loads(self.path.read_bytes())
        except ValueError:
            return {}
        return content if isinstance(content, dict) and isinstance(content.get("pid"), int) else {}

    def _storage_time(self) -> float:
        probe = self.folder / f".clock.{uuid.uuid4().hex}"
        probe.touch()
        try:
            return probe.stat().st_mtime
        finally:
            probe.unlink(missing_ok=True)

    def _acquire(self) -> bool:
        with suppress(FileNotFoundError):
            content = self.path.read_bytes()
            if self.holder() is None:
                removed = self.path.with_name(f".{self.path.stem}.{uuid.uuid4().hex}")
                os.rename(self.path, removed)
                if removed.read_bytes() != content:  # another process was faster and holds a new lock
                    os.rename(removed, self.path)
                    return False
                removed.unlink()
        try:
            handle = os.open(self.path, os.O_CREAT | os.O_EXCL | os.O_WRONLY)
        except FileExistsError:
            return False
        with os.fdopen(handle, "w") as file:
            _held.add(self._id)
            file.write(json.dumps({"host": socket.gethostname(), "pid": os.getpid(), "id": self._id}))
        return True

    def _renew(self) -> None:
        while not self._released.wait(HEARTBEAT_S):
            with suppress(OSError):  # of a storage that is away for a moment
                if self._content().get("id", self._id) != self._id:  # it became void in a pause, such as of a suspended machine
                    return
                os.utime(self.path)

    def __enter__(self) -> FolderLock:
        self.folder.mkdir(parents=True, exist_ok=True)
        self.acquired = self._acquire()
        if not self.acquired and self.wait is not None:
            print(f"{self.folder}: waiting for {self.holder()}; if it was killed, for {STALE_S:g} s at most", flush=True)
            while not self.acquired and self.wait():
                time.sleep(1)
                self.acquired = self._acquire()
        if self.acquired:
            threading.Thread(target=self._renew, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._released.set()
        if self.acquired:
            with suppress(FileNotFoundError):
                if self._content().get("id") == self._id:  # it is another's after a pause in which it became void
                    self.path.unlink(missing_ok=True)
            _held.discard(self._id)


def _runs(content: Mapping[str, Any]) -> bool:
    """True when the process that wrote a lock on this machine runs; the first processes of containers have equal numbers."""
    pid = content["pid"]
    return content.get("id") in _held if pid == os.getpid() else process_exists(pid)
