# SPDX-License-Identifier: Apache-2.0
"""A suite of two small networks and one that crashes, run once through the real entry points."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from scripts.errors import InputError
from scripts.experiments.run import run

SUITE = """
title: Tiny
configs: [configs/train.yaml]
overrides:
  epochs: 2
  num_workers: 0
  batch_size: 4
  check_data: header
  patch_size: [32, 48]
  spacing: [4.0, 4.0, 4.0]
reference: fused
ticks: {ASPP: "network_def::use_aspp"}
members:
  fused:
    label: Fused
    overrides: {"network_def::features": [4, 4, 4, 4, 8], "network_def::fusion_channels": 8}
    paper: {dice: 91.87, iou: 93.36}
  broken:
    label: Broken_one
    overrides: {"optimizer::lr": "$1 / 0"}
  plain:
    label: Plain & simple
    configs: [configs/network/unet.yaml]
    overrides: {"network_def::features": [4, 4, 4, 4, 8, 4]}
"""


@pytest.fixture(scope="session")
def tiny_suite(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("suite") / "tiny.yaml"
    path.write_text(SUITE)
    return path


@pytest.fixture(scope="session")
def ran(tiny_suite, phantom_set, tmp_path_factory) -> tuple[Path, str]:
    """Folder of the suite's results, and what the command said of the member that crashed."""
    out = tmp_path_factory.mktemp("results")
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    with pytest.raises(InputError) as said:
        run(str(tiny_suite), out=str(out), dataset_dir=str(phantom_set), device="cpu")
    return out, str(said.value)
