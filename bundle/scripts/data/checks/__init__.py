# SPDX-License-Identifier: Apache-2.0
"""Data-quality checks of datalists."""
