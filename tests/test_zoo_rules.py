# SPDX-License-Identifier: Apache-2.0
"""The bundle passes the rules of MONAI's model zoo, where the program that checks them lies beside the project."""

from __future__ import annotations

import json
import runpy

import pytest
from conftest import SHARED
from test_workflows import TINY

CHECKER = SHARED / "checks" / "verify_like_zoo.py"


@pytest.mark.slow
@pytest.mark.skipif(not CHECKER.is_file(), reason=f"the rule checker is not at {CHECKER}")
def test_bundle_passes_every_rule_that_needs_no_second_process(bundle, phantom_set, tmp_path):
    common = {"dataset_dir": str(phantom_set), "output_dir": str(tmp_path / "out"), "device": "cpu"}
    train = {**TINY, **common, "epochs": 1, "ckpt_dir": str(tmp_path / "out")}
    network = {k: v for k, v in TINY.items() if k.startswith("network_def::")}
    geometry = {k: TINY[k] for k in ("patch_size", "spacing")}
    smoke = {
        "train": train,
        "evaluate": {**train, "output_dir": str(tmp_path / "evaluated")},
        "inference": {**common, **network, **geometry, "checkpoint": str(tmp_path / "out" / "model.pt")},
    }
    (tmp_path / "smoke.json").write_text(json.dumps(smoke))
    weights = [] if (bundle / "models" / "model.pt").is_file() else ["--fake-weights"]
    arguments = [str(bundle), "--smoke", str(tmp_path / "smoke.json"), "--run-id", "training", "--skip", "M10,Z16"]
    report = tmp_path / "report.json"
    status = runpy.run_path(str(CHECKER))["main"]([*arguments, *weights, "--json", str(report)])
    assert status == 0, report.read_text() if report.is_file() else "no report"
