# SPDX-License-Identifier: Apache-2.0
"""Packages hidden from a library read as not installed to it, and to nothing else."""

from __future__ import annotations

import importlib
import subprocess
import sys

import pytest
from scripts.core.optional_packages import UNUSED_BY_COMMANDS, UNUSED_BY_INFERENCE, _LeanMonai, absent, import_monai_lean
from scripts.core.paths import BUNDLE


def test_hidden_within_and_found_afterwards(tmp_path, monkeypatch):
    (tmp_path / "of_this_test.py").write_text("VALUE = 3\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    with absent("of_this_test"), pytest.raises(ImportError):
        importlib.import_module("of_this_test")
    assert importlib.import_module("of_this_test").VALUE == 3
    del sys.modules["of_this_test"]


def test_imported_packages_stay():
    before = sys.modules["pytest"]
    with absent("pytest"):
        assert importlib.import_module("pytest") is before
    assert sys.modules["pytest"] is before


def test_found_again_after_an_error():
    with pytest.raises(RuntimeError), absent("no_such_module"):
        raise RuntimeError
    assert "no_such_module" not in sys.modules


def test_monai_is_whole_without_the_packages():
    program = f"""
import sys
from scripts.core.optional_packages import import_monai
import_monai()
import monai
from monai.bundle import ConfigParser
from monai.networks.nets import UNet
packages = {UNUSED_BY_INFERENCE!r}
print("loaded:", sorted(set(packages) & set(sys.modules)))
print(ConfigParser({{"net": {{"_target_": "UNet", "spatial_dims": 2, "in_channels": 1, "out_channels": 2, "channels": [4, 8],
    "strides": [2]}}}}).get_parsed_content("net").__class__ is UNet)
import scipy.ndimage, nibabel
print(scipy.ndimage.label([0, 1, 0, 1])[1], nibabel.Nifti1Image.__name__)
"""
    done = subprocess.run([sys.executable, "-c", program], cwd=BUNDLE, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == ["loaded: []", "True", "2 Nifti1Image"]


def test_a_command_imports_monai_without_packages_of_other_work():
    program = f"""
import sys
from scripts.commands import main
sys.argv = ["spine-fracture", "weights", "show", {str(BUNDLE / "models" / "model.pt")!r}]
main()
packages = {UNUSED_BY_COMMANDS!r}
print("loaded:", sorted(set(packages) & set(sys.modules)))
import matplotlib, numpy, pandas, torch
from monai.metrics.utils import get_edge_surface_distance
one = torch.tensor([[0, 0, 0], [0, 1, 0], [0, 0, 0]]) > 0
print(*get_edge_surface_distance(one, one.roll(1, 0), spacing=[2.0, 1.0], symmetric=True)[1], sys.modules["monai"].__spec__.name)
"""
    done = subprocess.run([sys.executable, "-W", "ignore", "-c", program], cwd=BUNDLE, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert "spatial_dims" in done.stdout
    assert done.stdout.splitlines()[-2:] == ["loaded: []", "tensor([2.]) tensor([2.]) monai"]


def test_monai_that_is_imported_stays_as_it_is():
    import monai

    import_monai_lean()
    assert not any(isinstance(finder, _LeanMonai) for finder in sys.meta_path)
    assert sys.modules["monai"] is monai
