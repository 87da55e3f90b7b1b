# SPDX-License-Identifier: Apache-2.0
"""Packages hidden from a library read as not installed to it, and to nothing else."""

from __future__ import annotations

import importlib
import subprocess
import sys

import pytest
from scripts.core.optional_packages import UNUSED_BY_MONAI, absent
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
packages = {UNUSED_BY_MONAI!r}
print("loaded:", sorted(set(packages) & set(sys.modules)))
print(ConfigParser({{"net": {{"_target_": "UNet", "spatial_dims": 2, "in_channels": 1, "out_channels": 2, "channels": [4, 8],
    "strides": [2]}}}}).get_parsed_content("net").__class__ is UNet)
import scipy.ndimage, nibabel
print(scipy.ndimage.label([0, 1, 0, 1])[1], nibabel.Nifti1Image.__name__)
"""
    done = subprocess.run([sys.executable, "-c", program], cwd=BUNDLE, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == ["loaded: []", "True", "2 Nifti1Image"]
