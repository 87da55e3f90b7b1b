# SPDX-License-Identifier: Apache-2.0
"""Figures of scans, masks and findings, and self-contained HTML pages."""
