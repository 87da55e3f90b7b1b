# SPDX-License-Identifier: Apache-2.0
"""A suite of three members, one of which fails."""

SUITE = """
title: Tiny
configs: [configs/train.yaml]
overrides:
  epochs: 2
  steps_per_epoch: null
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
