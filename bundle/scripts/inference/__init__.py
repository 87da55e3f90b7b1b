# SPDX-License-Identifier: Apache-2.0
"""Segmentation of scans: pipeline, backends, cohorts, export, and the components of MONAI Label."""
