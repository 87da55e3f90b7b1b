# SPDX-License-Identifier: Apache-2.0
"""Vertebrae of real persons from surface meshes, as templates that are morphed and articulated."""
