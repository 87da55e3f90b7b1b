# SPDX-License-Identifier: Apache-2.0
"""Writer of simulated data sets: files, table, sections, resume, and folders of version 0.5."""

from __future__ import annotations

import json

import nibabel as nib
import numpy as np
import pytest
from scripts.core.errors import InputError
from scripts.core.files import read_table
from scripts.simulation.datasets.phantom import phantom
from scripts.simulation.datasets.writer import LabelledScan, SimulationCase, check_options, is_intact, write_dataset
from scripts.simulation.spine_scan import SpineScan

SETTINGS = {"seed": 0}


def labelled_scan() -> LabelledScan:
    labels = np.zeros((4, 5, 6), np.uint8)
    labels[1:3, 1:4, 1], labels[1:3, 1:4, 3], labels[1:3, 1:4, 5] = 22, 21, 20
    fractures = [{"label": 21, "shape": "wedge", "grade": 2, "loss_anterior": 0.3}]
    scan = SpineScan(labels.astype(np.int16) * 10, labels, np.diag([2.0, 1.0, 1.0, 1.0]), fractures)
    return LabelledScan(scan, (labels == 21).astype(np.uint8), fractured=[22], unknown=[20], orientation="PIR")


def case(name: str, section: str | None = "training", simulate=labelled_scan) -> SimulationCase:
    return SimulationCase(name, f"{name}.nii.gz", simulate, section=section)


def test_files_share_a_grid_and_unknown_values_are_blank(tmp_path):
    datalist = write_dataset([case("a"), case("b", "testing")], tmp_path, SETTINGS, "text")
    content = json.loads((tmp_path / "datalist.json").read_text())
    assert datalist == str(tmp_path / "datalist.json")
    assert [len(content[s]) for s in ("training", "validation", "testing")] == [1, 0, 1]
    images = [nib.load(tmp_path / content["training"][0][key]) for key in ("image", "label", "vertebrae")]
    assert {nib.aff2axcodes(image.affine) for image in images} == {("P", "I", "R")}
    assert {image.shape for image in images} == {(5, 6, 4)}
    rows = {row["level"]: (row["fractured"], row["grade"]) for row in read_table(tmp_path / "vertebrae.csv")}
    assert rows == {"L1": ("", ""), "L2": ("1", "2"), "L3": ("1", "")}


def test_failures_are_isolated_and_retried(tmp_path, capsys):
    def fail() -> LabelledScan:
        raise ValueError("no body")

    with pytest.raises(InputError, match="1 of 2 scans"):
        write_dataset([case("a"), case("b", simulate=fail)], tmp_path, SETTINGS, "text")
    assert "b.nii.gz: no body" in capsys.readouterr().out
    # The finished case is not simulated again.
    write_dataset([case("a", simulate=fail), case("b")], tmp_path, SETTINGS, "text")
    assert len(json.loads((tmp_path / "datalist.json").read_text())["training"]) == 2
    with pytest.raises(InputError, match="no case is left"):
        write_dataset([case("c", simulate=fail)], tmp_path / "other", SETTINGS, "text")


def test_other_settings_are_refused(tmp_path):
    write_dataset([case("a")], tmp_path, SETTINGS, "text")
    with pytest.raises(InputError, match="seed=0, now seed=1"):
        write_dataset([case("a")], tmp_path, {"seed": 1}, "text")


def test_invalid_option_names_value_and_requirement():
    with pytest.raises(InputError, match="copies=0: must be 1 or more"):
        check_options({"copies": 0}, {"copies": (False, "1 or more")})


def test_folder_of_version_0_5_is_resumed(tmp_path):
    options = {"cases": 3, "seed": 9, "regions": "lumbar", "grades": 3, "healthy": 0.0, "spacing": 5.0}
    wide = {"style": "wide", "collapse_fraction": 0.5}
    phantom(str(tmp_path), **options, **wide)
    settings = json.loads((tmp_path / "settings.json").read_text())
    settings["drawn"] = settings.pop("collapse_fraction")
    (tmp_path / "settings.json").write_text(json.dumps(settings))
    tables = [*(tmp_path / "vertebrae").glob("*.csv"), tmp_path / "vertebrae.csv"]
    before = (tmp_path / "vertebrae.csv").read_text()
    for table in tables:
        lines = [",".join(c for i, c in enumerate(line.split(",")) if i != 3) for line in table.read_text().splitlines()]
        table.write_text("\n".join(lines) + "\n")
    stamps = {p: p.stat().st_mtime_ns for p in tmp_path.rglob("*.nii.gz")}
    phantom(str(tmp_path), **options, **wide)
    assert {p: p.stat().st_mtime_ns for p in tmp_path.rglob("*.nii.gz")} == stamps
    assert (tmp_path / "vertebrae.csv").read_text() == before
    with pytest.raises(InputError, match=r"collapse_fraction=0\.5"):
        phantom(str(tmp_path), **options, style="wide", collapse_fraction=1.0)


@pytest.mark.parametrize("healthy", [0.1, 0.2, 0.25, 1 / 3, 0.5])
@pytest.mark.parametrize("regions", [1, 3, 4, 8])
def test_every_region_has_fractures_and_intact_scans(regions, healthy):
    """Regions and intact scans in turn must not coincide: one region would never have a fracture."""
    count = 240
    intact = [is_intact(k, healthy, regions) for k in range(count)]
    assert sum(intact) == pytest.approx(healthy * count, abs=1)
    for region in range(regions):
        share = np.mean(intact[region::regions])
        assert 0.4 * healthy <= share <= 2.2 * healthy
    longest = max(len(run) for run in "".join("x" if i else " " for i in intact).split("x"))
    assert longest <= 2 / healthy + regions


def test_no_scan_is_intact_or_all_are():
    assert not any(is_intact(k, 0.0, 4) for k in range(20))
    assert all(is_intact(k, 1.0, 4) for k in range(20))
