# SPDX-License-Identifier: Apache-2.0
"""Decompression of a scan in a thread while libraries are imported, so that its voxels are there when they are needed."""

from __future__ import annotations

import queue
import threading
from pathlib import Path
from typing import BinaryIO

from nibabel.openers import ImageOpener

from .fast_gzip import open_gzip

CHUNK_BYTES = 8 * 2**20
LIMIT_BYTES = 256 * 2**20  # in memory at a time; a longer scan waits for its reader


def _signature(path: str) -> tuple[int, int]:
    status = Path(path).stat()
    return status.st_size, status.st_mtime_ns


class ReadAhead:
    """Content of a gzip file, decompressed in a thread from now on, as a file that is read once from front to back.

    Args:
        path: file.
        limit_bytes: decompressed bytes in memory at a time.
    """

    def __init__(self, path: str, limit_bytes: int = LIMIT_BYTES) -> None:
        self.signature = _signature(path)
        self._chunks: queue.Queue[bytes | BaseException] = queue.Queue(max(limit_bytes // CHUNK_BYTES, 1))
        self._rest, self._ended, self._closed = memoryview(b""), False, threading.Event()
        threading.Thread(target=self._decompress, args=(path,), daemon=True, name="read ahead").start()

    def _put(self, item: bytes | BaseException) -> None:
        while not self._closed.is_set():
            try:
                return self._chunks.put(item, timeout=0.2)
            except queue.Full:
                continue

    def _decompress(self, path: str) -> None:
        try:
            with open_gzip(path) as file:
                while not self._closed.is_set():
                    chunk = file.read(CHUNK_BYTES)
                    self._put(chunk)
                    if not chunk:
                        return
        except Exception as error:  # raised again where the file is read
            self._put(error)

    def read(self, size: int) -> bytes:
        """Next ``size`` bytes, fewer at the end of the file.

        Raises:
            OSError, EOFError: those of the decompression.
        """
        parts: list[memoryview] = []
        while size > 0 and not self._ended:
            if not self._rest:
                item = self._chunks.get()
                if isinstance(item, BaseException):
                    self._ended = True
                    raise item
                self._rest, self._ended = memoryview(item), not item
            part, self._rest = self._rest[:size], self._rest[size:]
            parts.append(part)
            size -= len(part)
        return b"".join(parts)

    def seek(self, offset: int) -> None:
        """Skip the first ``offset`` bytes; before anything is read."""
        self.read(offset)

    def close(self) -> None:
        """End the thread and free the memory."""
        self._closed.set()
        self._ended, self._rest = True, memoryview(b"")
        while not self._chunks.empty():
            self._chunks.get_nowait()

    def __enter__(self) -> ReadAhead:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


_pending: dict[str, ReadAhead] = {}


def start(path: str) -> None:
    """Begin to decompress a file that this process will read; nothing for a path that is no gzip file."""
    if path.endswith(".gz") and path not in _pending and Path(path).is_file():
        _pending[path] = ReadAhead(path)


def stop() -> None:
    """Free what was decompressed and not read."""
    while _pending:
        _pending.popitem()[1].close()


def opened(path: str) -> ReadAhead | BinaryIO:
    """File at its first byte: what ``start`` began to decompress, unless the file was replaced since, else opened by nibabel."""
    ahead = _pending.pop(path, None)
    if ahead is not None and ahead.signature == _signature(path):
        return ahead
    if ahead is not None:
        ahead.close()
    return ImageOpener(path)
