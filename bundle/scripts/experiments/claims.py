# SPDX-License-Identifier: Apache-2.0
"""Claims on folders of a shared storage, so that several machines work on one suite without a server."""

from __future__ import annotations

import json
import os
import socket
import threading
import uuid
from contextlib import suppress
from pathlib import Path
from types import TracebackType

BEAT = 15.0  # seconds between signs of life
DEAD = 120.0  # seconds without one after which a claim is void


def _now(folder: Path) -> float:
    """Time by the clock of the storage, which the machines share; their own may differ."""
    probe = folder / f".clock.{uuid.uuid4().hex}"
    probe.touch()
    try:
        return probe.stat().st_mtime
    finally:
        probe.unlink(missing_ok=True)


def _alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


class Claim:
    """Hold ``claim.json`` in a folder while working there; ``taken`` says whether it could be had.

    The file is created by an operation that only one process can win. A thread touches it; a claim that nobody touched for
    ``DEAD`` seconds, or whose process on this machine is gone, is taken away by a rename, which again only one can win.

    Args:
        folder: of the member.
    """

    def __init__(self, folder: Path) -> None:
        self.folder, self.path = Path(folder), Path(folder) / "claim.json"
        self.taken = False
        self._stop = threading.Event()

    def holder(self) -> str | None:
        """Who works here, as "host, process N"; None when nobody does."""
        try:
            content = json.loads(self.path.read_text(encoding="utf-8"))
            beat = self.path.stat().st_mtime
        except FileNotFoundError:
            return None
        except ValueError:
            content, beat = {}, self.path.stat().st_mtime if self.path.is_file() else 0.0
        here = content.get("host") == socket.gethostname()
        if (here and not _alive(int(content.get("pid", 0)))) or _now(self.folder) - beat > DEAD:
            return None
        return f"{content.get('host', 'another machine')}, process {content.get('pid', '?')}"

    def __enter__(self) -> Claim:
        self.folder.mkdir(parents=True, exist_ok=True)
        if self.path.exists() and self.holder() is None:
            away = self.path.with_name(f".claim.{uuid.uuid4().hex}")
            with suppress(FileNotFoundError):
                os.rename(self.path, away)
                away.unlink()
        content = json.dumps({"host": socket.gethostname(), "pid": os.getpid()})
        try:
            handle = os.open(self.path, os.O_CREAT | os.O_EXCL | os.O_WRONLY)
        except FileExistsError:
            return self
        with os.fdopen(handle, "w") as file:
            file.write(content)
        self.taken = True
        threading.Thread(target=self._beat, daemon=True).start()
        return self

    def _beat(self) -> None:
        while not self._stop.wait(BEAT):
            with suppress(FileNotFoundError):
                os.utime(self.path)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop.set()
        if self.taken:
            self.path.unlink(missing_ok=True)
