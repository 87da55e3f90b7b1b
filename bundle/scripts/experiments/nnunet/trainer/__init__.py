# SPDX-License-Identifier: Apache-2.0
"""Modules that nnU-Net imports in its own process, from the folder in ``nnUNet_extTrainer``."""
