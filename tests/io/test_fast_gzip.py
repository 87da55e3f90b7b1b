# SPDX-License-Identifier: Apache-2.0
"""Files read by ISA-L have the bytes, and damaged ones the errors, of the standard library."""

from __future__ import annotations

import gzip
import subprocess
import sys

import nibabel as nib
import numpy as np
import pytest
from nibabel.openers import ImageOpener
from scripts.core.paths import BUNDLE
from scripts.io import fast_gzip
from scripts.io.ct_volume import Scan
from scripts.io.fast_gzip import open_gzip
from scripts.io.scan_header import read_header

pytest.importorskip("isal", reason="the extra `fast` is not installed")
CONTENT = np.random.default_rng(0).normal(0, 40, 300_000).astype(np.int16).tobytes()
STORED = gzip.compress(CONTENT, 6, mtime=0)
DAMAGED = {
    "half": STORED[: len(STORED) // 2],
    "without its checksum": STORED[:-8],
    "without the last byte": STORED[:-1],
    "other checksum": STORED[:-8] + b"abcd" + STORED[-4:],
    "other length": STORED[:-4] + b"abcd",
    "zeros in the middle": STORED[:50_000] + bytes(300) + STORED[50_300:],
    "text after its end": STORED + b"text after its end",
    "no gzip": CONTENT[:1000],
    "header alone": STORED[:5],
}


def read_all(opened, step: int = 1 << 16) -> bytes:
    with opened as file:
        return b"".join(iter(lambda: file.read(step), b""))


@pytest.mark.parametrize("level", [1, 6, 9])
@pytest.mark.parametrize("size", [0, 1, 65_536, len(CONTENT)])
def test_bytes_are_those_that_were_compressed(tmp_path, level, size):
    path = tmp_path / "voxels.gz"
    path.write_bytes(gzip.compress(CONTENT[:size], level))
    assert read_all(open_gzip(path)) == CONTENT[:size]


def test_several_members_and_padding(tmp_path):
    path = tmp_path / "voxels.gz"
    path.write_bytes(STORED + STORED + bytes(64))
    assert read_all(open_gzip(path), 100_001) == CONTENT * 2


@pytest.mark.parametrize("name", DAMAGED)
def test_damaged_files_raise_what_gzip_raises(tmp_path, name):
    path = tmp_path / "voxels.gz"
    path.write_bytes(DAMAGED[name])
    with pytest.raises((OSError, EOFError)) as standard:
        gzip.decompress(DAMAGED[name])
    with pytest.raises((OSError, EOFError)) as fast:
        read_all(open_gzip(path))
    assert fast.type is standard.type
    assert str(fast.value)[:15] == str(standard.value)[:15]  # checksums are written in other digits


def test_any_position(tmp_path):
    path = tmp_path / "voxels.gz"
    path.write_bytes(STORED)
    with open_gzip(path) as file:
        for start in (100_000, 10, 599_990):
            file.seek(start)
            assert file.read(10) == CONTENT[start : start + 10]


def test_nibabel_reads_and_writes_the_same(tmp_path):
    opener, _ = ImageOpener.compress_ext_map[".gz"]
    assert opener is open_gzip
    volume = np.frombuffer(CONTENT, np.int16).reshape(50, 60, 100)
    path = tmp_path / "scan.nii.gz"
    nib.save(nib.Nifti1Image(volume, np.eye(4)), path)
    np.testing.assert_array_equal(np.asarray(nib.load(path).dataobj), volume)
    np.testing.assert_array_equal(np.asarray(nib.load(path).dataobj[10:20, :, 5]), volume[10:20, :, 5])
    gzip.decompress(path.read_bytes())


@pytest.mark.parametrize("fast", [True, False])
def test_truncated_scan_is_one_line(tmp_path, monkeypatch, fast):
    if not fast:
        monkeypatch.setattr(fast_gzip, "igzip", None)
    path = tmp_path / "scan.nii.gz"
    volume = np.frombuffer(CONTENT, np.int16).reshape(50, 60, 100)
    nib.save(nib.Nifti1Image(volume, np.diag([1.0, 1.0, 1.0, 1.0])), path)
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ValueError, match="truncated, copy it again") as error:
        Scan(read_header(path), expect_hu=False)
    assert str(path) in str(error.value)
    assert "\n" not in str(error.value)


def test_without_the_package_nibabel_reads_by_zlib():
    program = """
import sys
sys.modules["isal"] = None
from nibabel.openers import ImageOpener, Opener
import scripts.io.formats
from scripts.io.fast_gzip import available
print(available(), ImageOpener.compress_ext_map[".gz"] == Opener.gz_def)
"""
    done = subprocess.run([sys.executable, "-c", program], cwd=BUNDLE, capture_output=True, text=True, timeout=120)
    assert done.stdout == "False True\n", done.stderr


@pytest.mark.parametrize("installed", [True, False])
def test_equal_content_is_an_equal_file_of_any_reader(tmp_path, monkeypatch, installed):
    if not installed:
        monkeypatch.setattr(fast_gzip, "igzip", None)
    files = [tmp_path / name for name in ("a.nii.gz", "b.nii.gz")]
    for path in files:
        with path.open("wb") as raw, fast_gzip.compressed(raw) as file:
            for start in range(0, len(CONTENT), 70_000):
                file.write(CONTENT[start : start + 70_000])
    assert files[0].read_bytes() == files[1].read_bytes()
    assert gzip.decompress(files[0].read_bytes()) == CONTENT
