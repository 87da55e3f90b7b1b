# SPDX-License-Identifier: Apache-2.0
"""Scans and masks on disk: formats, DICOM, headers and voxels, resampling, writers, checks of one image."""
