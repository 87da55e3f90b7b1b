# SPDX-License-Identifier: Apache-2.0
"""Scans and masks on disk: formats, DICOM, geometry, resampling, writers and checks of one image."""
