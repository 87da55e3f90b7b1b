# SPDX-License-Identifier: Apache-2.0
"""Data lists, splits, transforms, caches and checks of training data."""
