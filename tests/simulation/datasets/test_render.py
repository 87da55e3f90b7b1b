# SPDX-License-Identifier: Apache-2.0
"""Data sets of rendered CTs: real fractures are files, failures isolated."""

from __future__ import annotations

import json

import nibabel as nib
import numpy as np
import pytest
from scripts.core.errors import InputError
from scripts.data.datalist import load_datalist
from scripts.simulation.datasets.render import render


def test_rendering_keeps_real_fractures_and_isolates_failures(phantom_set, tmp_path, capsys):
    content = json.loads((phantom_set / "datalist.json").read_text())
    cases = [{**c, **{k: str(phantom_set / c[k]) for k in ("image", "label", "vertebrae")}} for c in content["training"]]
    cases.append({"vertebrae": str(tmp_path / "gone.nii.gz"), "patient": "gone"})
    path = tmp_path / "masks.json"
    path.write_text(json.dumps({"training": cases}))
    with pytest.raises(InputError, match="1 of 3 scans"):
        render(str(path), str(tmp_path / "out"), healthy=1.0)
    assert "gone.nii.gz" in "".join(capsys.readouterr())
    made = load_datalist(str(tmp_path / "out" / "datalist.json"), "training")
    assert len(made) == 2
    for case, source in zip(made, cases[:2], strict=True):
        was, now = (np.asarray(nib.load(c["label"]).dataobj) for c in (source, case))
        assert (now == 1).sum() == (was == 1).sum()
        assert (now == 255).sum() > 0
    good = {"training": cases[:1]}
    path.write_text(json.dumps(good))
    thick = render(str(path), str(tmp_path / "thick"), healthy=1.0, cortex="thick")
    images = [
        np.asarray(nib.load(load_datalist(str(listed), "training")[0]["image"]).dataobj)
        for listed in (tmp_path / "out" / "datalist.json", thick)
    ]
    assert images[0].shape == images[1].shape
    assert (images[0] != images[1]).any()
    with pytest.raises(InputError, match="cortex"):  # of another set
        render(str(path), str(tmp_path / "thick"), healthy=1.0)
    for options in (
        {"cortex": "fat"},
        {"grades": [4]},
        {"copies": 0},
        {"healthy": 2.0},
        {"min_grade": 0},
        {"fractures": 0},
        {"noise": -1.0},
    ):
        with pytest.raises(InputError, match=next(iter(options))):
            render(str(path), str(tmp_path / "x"), **options)
