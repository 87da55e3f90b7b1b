# SPDX-License-Identifier: Apache-2.0
"""nnU-Net v2 as a member of suites, by its own commands, preprocessing and recipe."""
