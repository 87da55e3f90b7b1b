# SPDX-License-Identifier: Apache-2.0
"""Where the bundle and its configs lie."""

from __future__ import annotations

from pathlib import Path

BUNDLE = Path(__file__).resolve().parents[2]
SUITES = BUNDLE / "configs" / "experiments"
