# SPDX-License-Identifier: Apache-2.0
"""A file is complete or absent; a failed write keeps the old content."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest
from scripts.core.cli import call
from scripts.core.errors import InputError
from scripts.core.files import atomic_write, ensure_same_settings, os_error_line, remove_stale, write_table, write_text


def test_a_failed_write_keeps_the_old_file_alone(tmp_path):
    target = tmp_path / "out" / "table.csv"
    write_text(target, "old")
    with pytest.raises(TypeError):
        write_text(target, 3)  # type: ignore[arg-type]
    assert target.read_text() == "old"
    assert [p.name for p in target.parent.iterdir()] == ["table.csv"]


def test_the_temporary_name_keeps_the_suffix(tmp_path):
    with atomic_write(tmp_path / "scan.nii.gz") as temporary:
        assert temporary.name.endswith(".nii.gz")
        temporary.write_bytes(b"x")
    assert (tmp_path / "scan.nii.gz").read_bytes() == b"x"


def test_a_table_drops_other_keys_and_leaves_missing_ones_empty(tmp_path):
    write_table(tmp_path / "t.csv", [{"a": 1, "b": 2, "z": 3}, {"a": "x, y"}], ["a", "b"])
    assert (tmp_path / "t.csv").read_text().splitlines() == ["a,b", "1,2", '"x, y",']


def test_a_folder_begun_with_other_settings_is_refused(tmp_path):
    ensure_same_settings(tmp_path, {"seed": 1, "grades": (1, 2)})
    ensure_same_settings(tmp_path, {"seed": 1, "grades": (1, 2)})
    (tmp_path / "case.json").write_text("{}")
    with pytest.raises(InputError, match=r"seed=1, now seed=2"):
        ensure_same_settings(tmp_path, {"seed": 2, "grades": (1, 2)})


@pytest.mark.parametrize("text", ["{", "[1]", ""])
def test_damaged_settings_are_one_line(tmp_path, text):
    (tmp_path / "case.json").write_text("{}")
    (tmp_path / "settings.json").write_text(text)
    with pytest.raises(InputError, match=r"settings.json: is damaged"):
        ensure_same_settings(tmp_path, {"seed": 1})
    assert (tmp_path / "settings.json").read_text() == text


def test_settings_of_a_command_that_wrote_nothing_are_replaced(tmp_path):
    (tmp_path / "cases").mkdir()
    for seed in (1, 2):
        ensure_same_settings(tmp_path, {"seed": seed})
    assert json.loads((tmp_path / "settings.json").read_text()) == {"seed": 2}


@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), OSError("1000 requested and 12 written")])
def test_full_disk_names_the_file_and_keeps_the_old_one(tmp_path, error):
    target = tmp_path / "table.csv"
    write_text(target, "old")
    with pytest.raises(OSError, match="No space left") as caught, atomic_write(target):
        raise error
    assert caught.value.filename == str(target)
    assert os_error_line(caught.value) == (
        f"{target}: No space left on device; free some space, or choose another output; what is finished stays"
    )
    assert [p.name for p in tmp_path.iterdir()] == ["table.csv"]
    assert target.read_text() == "old"


def test_full_disk_ends_a_command_with_one_line(tmp_path):
    def command(out: str) -> None:
        """Write."""
        raise OSError(28, "No space left on device")

    with pytest.raises(InputError, match=r"^a file: No space left on device; free some space") as caught:
        call(command, [str(tmp_path)], "program command")
    assert "\n" not in str(caught.value)


def test_temporary_files_of_killed_processes_are_removed(tmp_path):
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    stale = [tmp_path / f".{ended.pid}.scan.voxels", tmp_path / "sub" / f".{ended.pid}.spine-fracture.old.nii.gz"]
    kept = [
        tmp_path / f".{os.getpid()}.scan.voxels",
        tmp_path / f".{ended.pid}.spine-fracture.new.nii.gz",
        tmp_path / f".{ended.pid}.of_another_program.csv.swp",
        tmp_path / ".hidden",
        tmp_path / "1.a.voxels",
    ]
    for path in (*stale, *kept):
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(b"x")
    for path in (stale[1], kept[2]):
        os.utime(path, (0, 0))
    assert sorted(remove_stale(tmp_path)) == sorted(stale)
    assert all(path.exists() for path in kept)
