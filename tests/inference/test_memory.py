# SPDX-License-Identifier: Apache-2.0
"""Sizes are parsed, and the plan grows with the scan."""

from __future__ import annotations

import numpy as np
import pytest
from scripts.inference import memory
from scripts.inference.given_vertebrae import mask_bytes
from scripts.inference.memory import machine_memory, parse_bytes, peak_resident, plan_memory
from scripts.io.scan_header import ScanHeader
from scripts.io.working_grid import WorkingGrid


def plan(slices: int, limit: int | None = None, whole_read: bool = False, channels: int = 1):
    affine = np.diag([0.7, 0.7, 1.0, 1.0])
    header = ScanHeader("ct.nii.gz", (512, 512, slices), affine, np.dtype(np.int16), whole_read)
    grid = WorkingGrid.plan(header.shape, affine, (1, 1, 1))
    return plan_memory(header, grid, (256, 256), 8, 500 * 2**20, limit, 96 * 2**20, channels)


def test_long_scan_fits_into_six_gib():
    assert plan(2000).peak < 6 * 2**30


def test_plan_grows_linearly_with_the_scan():
    peaks = [plan(n).peak for n in (600, 1200, 1800)]
    assert peaks[2] - peaks[1] == pytest.approx(peaks[1] - peaks[0], rel=0.02)


def test_a_given_mask_counts(tmp_path):
    affine = np.diag([0.7, 0.7, 1.0, 1.0])
    header = ScanHeader("ct.nii.gz", (512, 512, 2000), affine, np.dtype(np.int16), False)
    grid = WorkingGrid.plan(header.shape, affine, (1, 1, 1))
    fixed = (header, grid, (256, 256), 8, 500 * 2**20)
    folder = tmp_path / "segmentations"
    folder.mkdir()
    (folder / "vertebrae_L1.nii.gz").write_bytes(b"x")
    assert mask_bytes(None, header) == (0, 0)
    for path in (str(tmp_path / "mask.nii.gz"), str(folder)):
        given = mask_bytes(path, header)
        without, with_mask = (plan_memory(*fixed, None, 96 * 2**20, given=g) for g in ((0, 0), given))
        assert with_mask.peak - without.peak == given[0] >= 2 * header.voxels
    assert mask_bytes(str(tmp_path / "mask.nii.gz"), header)[1] == 0  # in a temporary file, as the voxels


def test_short_memory_spools_the_scan_and_less_rejects_it():
    plenty = plan(1000)
    assert not plenty.spool
    short = plan(1000, plenty.peak - 1)
    assert short.spool
    assert "temporary file" in short.line()
    with pytest.raises(ValueError, match="raise max_memory"):
        plan(1000, short.peak - 1)


def test_a_plan_above_the_memory_of_the_machine_is_refused(monkeypatch):
    assert 2**28 < machine_memory() < 2**50
    plenty = plan(1000)
    monkeypatch.setattr("scripts.inference.memory.machine_memory", lambda: plenty.peak - 1)
    assert plan(1000).spool
    monkeypatch.setattr("scripts.inference.memory.machine_memory", lambda: 2**30)
    with pytest.raises(ValueError, match=r"this machine has 1\.00 GiB"):
        plan(1000)
    assert plan(1000, 2**40).peak == plenty.peak  # max_memory stands for it


def test_a_tiny_spacing_of_the_network_is_refused():
    header = ScanHeader("ct.nii.gz", (512, 512, 300), np.diag([0.7, 0.7, 1.0, 1.0]), np.dtype(np.int16))
    grid = WorkingGrid.plan(header.shape, header.affine, (0.001, 0.001, 0.001))
    with pytest.raises(ValueError, match=r"on a grid of 0\.001 x 0\.001 x 0\.001 mm"):
        plan_memory(header, grid, (256, 256), 8, 0, None, 96 * 2**20)


def test_the_limit_of_a_container_counts(tmp_path, monkeypatch):
    (tmp_path / "memory.max").write_text("1073741824\n")
    (tmp_path / "other").write_text("max\n")
    monkeypatch.setattr("scripts.inference.memory.CGROUP_FILES", (tmp_path / "other", tmp_path / "memory.max", tmp_path / "none"))
    assert machine_memory() == 2**30


def test_library_that_reads_the_whole_file_counts():
    assert plan(2000, whole_read=True).reading > plan(2000).reading


def test_slice_context_counts():
    assert plan(600, channels=5).sample > plan(600).sample + 40 * 2**20
    assert plan(600, channels=5).result == plan(600).result


@pytest.mark.parametrize(("text", "expected"), [("4G", 4 * 2**30), ("1500 MiB", 1500 * 2**20), (2, 2 * 2**30), (None, None)])
def test_sizes_are_parsed(text, expected):
    assert parse_bytes(text) == expected


@pytest.mark.parametrize("text", ["lots", "-1G", "0", "4GG", "..G"])
def test_text_that_is_no_size_is_named(text):
    with pytest.raises(ValueError, match="max_memory"):
        parse_bytes(text)


def test_peak_of_this_process():
    assert peak_resident() > 50 * 2**20


def test_program_counts_matplotlib_before_its_import(monkeypatch):
    monkeypatch.setattr(memory, "peak_resident", lambda: 10**9)
    monkeypatch.setitem(memory.sys.modules, "matplotlib.figure", memory)
    assert memory.program_bytes() == 10**9
    monkeypatch.delitem(memory.sys.modules, "matplotlib.figure")
    assert memory.program_bytes() == 10**9 + memory.MATPLOTLIB_BYTES
