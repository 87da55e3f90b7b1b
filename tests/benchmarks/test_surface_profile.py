# SPDX-License-Identifier: Apache-2.0
"""HU by distance to the surface of a mask: a known shell is found where it was drawn."""

from __future__ import annotations

import json
import subprocess
import sys

import nibabel as nib
import numpy as np
from scipy import ndimage
from scripts.core.paths import BUNDLE

PROGRAM = BUNDLE.parent / "benchmarks" / "surface_profile.py"


def test_shell_is_found_at_its_depth(tmp_path):
    labels = np.zeros((60, 90, 60), np.uint8)
    labels[12:48, 50:80, 12:48] = 22  # body of L3
    labels[24:36, 10:26, 24:36] = 22  # and a piece behind it
    labels[26:34, 26:50, 26:34] = 22
    depth = ndimage.distance_transform_edt(labels > 0)
    hu = np.where((depth > 1) & (depth <= 2), 900, np.where(labels > 0, 100, 0)).astype(np.int16)
    for name, voxels in (("image", hu), ("vertebrae", labels)):
        nib.save(nib.Nifti1Image(voxels, np.eye(4)), tmp_path / f"{name}.nii.gz")
    case = {"image": "image.nii.gz", "vertebrae": "vertebrae.nii.gz", "patient": "p"}
    (tmp_path / "datalist.json").write_text(json.dumps({"testing": [case]}))
    words = [sys.executable, str(PROGRAM), f"block={tmp_path / 'datalist.json'}"]
    done = subprocess.run(words, capture_output=True, text=True, check=True)
    head, _, *rows = (line.strip("| ").split(" | ") for line in done.stdout.splitlines())
    assert [row[:3] for row in rows] == [["block", "1", "bodies"], ["block", "1", "arches"]]
    for row in rows:
        values = {mm: float(text) for mm, text in zip(head[-11:], row[3:], strict=True)}
        assert values["-1.5"] > 850  # edges of the shell are not all within a bin
        assert max(values["-2.5"], values["-0.5"]) < 150
        assert values["+1.5"] == 0
