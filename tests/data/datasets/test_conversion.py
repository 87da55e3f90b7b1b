# SPDX-License-Identifier: Apache-2.0
"""The shared part of the converters: isolated failures, one grid check, label maps, resumable cases."""

from __future__ import annotations

import json
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from scripts.core.errors import InputError
from scripts.data.datasets.conversion import ConvertedCase, SourceCase, convert, map_labels, process_cases, require_same_grid


def image(shape=(4, 4, 4), shift=0.0, value=0) -> nib.Nifti1Image:
    affine = np.eye(4)
    affine[0, 3] = shift
    return nib.Nifti1Image(np.full(shape, value, np.uint8), affine)


@pytest.mark.parametrize("workers", [0, 1, 3])
def test_results_are_in_order_and_failures_are_isolated(workers, capsys):
    def invert(x: int) -> float:
        return 1 / x

    results, failures = process_cases(invert, [1, 0, 2], lambda x: f"file{x}", workers)
    assert results == [1.0, None, 0.5]
    assert failures == ["file0: division by zero"]
    assert "skipped: file0: division by zero" in capsys.readouterr().out


def test_a_different_grid_is_refused_with_file_and_remedy():
    require_same_grid("m.nii", image(), image(shift=0.01))
    with pytest.raises(ValueError, match=r"m.nii: mask has shape \(4, 4, 5\).*resample"):
        require_same_grid("m.nii", image(), image((4, 4, 5)))
    with pytest.raises(ValueError, match=r"m.nii: mask is up to 3.00 mm off its image; resample"):
        require_same_grid("m.nii", image(), image(shift=3.0))


def test_labels_without_a_value_become_background():
    labels = np.array([[0, 20], [21, 255]], np.uint8)
    assert map_labels(labels, {20: 1, 21: 255}).tolist() == [[0, 1], [255, 0]]
    assert map_labels(labels, {}).dtype == np.uint8


def test_finished_cases_are_kept_and_masks_without_ct_unlisted(tmp_path):
    calls = []

    def case(name: str, in_datalist: bool = True) -> SourceCase:
        def run() -> ConvertedCase:
            calls.append(name)
            return ConvertedCase(label=image(value=1), vertebrae=image(value=20))

        return SourceCase(name, name, Path(f"{name}.nii.gz"), run, in_datalist)

    cases = [case("a"), case("b"), case("shape", in_datalist=False)]
    path = convert(cases, tmp_path, "test", split=False)
    assert calls == ["a", "b", "shape"]
    assert convert(cases, tmp_path, "test", split=False) == path
    assert calls == ["a", "b", "shape"]
    assert [c["patient"] for c in json.loads(Path(path).read_text())["testing"]] == ["a", "b"]
    assert len((tmp_path / "vertebrae.csv").read_text().splitlines()) == 4
    assert convert([case("only", in_datalist=False)], tmp_path / "masks", "test").endswith("masks.json")


def test_no_converted_case_is_an_error(tmp_path):
    with pytest.raises(InputError, match="no case is left"):
        convert([SourceCase("a", "a", Path("a.nii"), lambda: None)], tmp_path, "test")
