# SPDX-License-Identifier: Apache-2.0
"""Metrics per case and their summary."""
