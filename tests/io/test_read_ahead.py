# SPDX-License-Identifier: Apache-2.0
"""A scan decompressed in a thread has the bytes and the errors of one that is read directly, and bounded memory."""

from __future__ import annotations

import gzip
import threading
import time

import nibabel as nib
import numpy as np
import pytest
from scripts.inference import segment as segment_module
from scripts.io import ct_volume, read_ahead
from scripts.io.ct_volume import Scan
from scripts.io.read_ahead import ReadAhead
from scripts.io.scan_header import read_header

CONTENT = np.random.default_rng(0).normal(0, 40, 600_000).astype(np.int16).tobytes()


@pytest.fixture(autouse=True)
def small_chunks(monkeypatch):
    monkeypatch.setattr(read_ahead, "CHUNK_BYTES", 50_000)
    yield
    read_ahead.stop()


def threads() -> list[threading.Thread]:
    return [t for t in threading.enumerate() if t.name == "read ahead"]


def write_scan(path, shape=(30, 40, 25)):
    voxels = np.random.default_rng(1).normal(40, 200, shape).astype(np.int16)
    nib.save(nib.Nifti1Image(voxels, np.diag([1.0, 1.0, 2.0, 1.0])), path)
    return voxels


@pytest.mark.parametrize("step", [1, 49_999, 50_000, 50_001, len(CONTENT), 2 * len(CONTENT)])
def test_bytes_are_those_of_the_file(tmp_path, step):
    path = tmp_path / "voxels.gz"
    path.write_bytes(gzip.compress(CONTENT, 1))
    expected = CONTENT[:3000] if step == 1 else CONTENT
    with ReadAhead(str(path)) as file:
        got = b"".join(file.read(step) for _ in range(-(-len(expected) // step)))
        assert got == expected
        if step > 1:
            assert file.read(step) == b""


def test_memory_is_bounded_and_freed(tmp_path):
    path = tmp_path / "voxels.gz"
    path.write_bytes(gzip.compress(CONTENT, 1))
    ahead = ReadAhead(str(path), limit_bytes=100_000)
    time.sleep(0.3)
    assert ahead._chunks.qsize() == 2  # waits for its reader
    assert ahead.read(len(CONTENT)) == CONTENT
    ahead.close()
    waiting = ReadAhead(str(path), limit_bytes=100_000)
    time.sleep(0.1)
    waiting.close()
    for thread in threads():
        thread.join(5)
    assert not threads()


@pytest.mark.parametrize("damage", [lambda b: b[: len(b) // 2], lambda b: b[:-8] + b"abcdefgh", lambda b: b"no gzip"])
def test_damaged_scans_have_the_message_of_a_direct_reading(tmp_path, damage):
    path = tmp_path / "scan.nii.gz"
    write_scan(path)
    header = read_header(path)
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(ValueError, match=r"scan\.nii\.gz") as direct:
        Scan(header)
    read_ahead.start(str(path))
    with pytest.raises(ValueError, match=r"scan\.nii\.gz") as ahead:
        Scan(header)
    assert str(ahead.value) == str(direct.value)


def test_scan_takes_what_was_started_once(tmp_path, monkeypatch):
    path = tmp_path / "scan.nii.gz"
    voxels = write_scan(path)
    header, taken = read_header(path), []
    monkeypatch.setattr(ct_volume, "opened", lambda p: taken.append(read_ahead.opened(p)) or taken[-1])
    read_ahead.start(str(path))
    for _ in range(2):
        np.testing.assert_array_equal(Scan(header).in_memory, voxels.transpose(2, 1, 0))
    assert [isinstance(file, ReadAhead) for file in taken] == [True, False]


def test_replaced_file_is_read_again(tmp_path):
    path = tmp_path / "scan.nii.gz"
    write_scan(path, (30, 40, 20))
    read_ahead.start(str(path))
    voxels = write_scan(path)
    np.testing.assert_array_equal(Scan(read_header(path)).in_memory, voxels.transpose(2, 1, 0))


def test_other_files_are_not_started(tmp_path):
    plain = tmp_path / "scan.nii"
    write_scan(plain)
    read_ahead.start(str(plain))
    read_ahead.start(str(tmp_path / "absent.nii.gz"))
    assert not threads()


@pytest.mark.parametrize(("options", "started"), [({}, True), ({"max_memory": "4G"}, False)])
def test_segment_starts_it_before_the_imports(tmp_path, monkeypatch, options, started):
    path = tmp_path / "scan.nii.gz"
    write_scan(path)
    pending = []
    monkeypatch.setattr(segment_module, "import_monai", lambda: pending.append(list(read_ahead._pending)))
    monkeypatch.setattr(segment_module, "segment", lambda **_: None)
    segment_module.segment_command(path=str(path), out=str(tmp_path / "out"), **options)
    assert pending == [[str(path)] if started else []]
    assert not read_ahead._pending
