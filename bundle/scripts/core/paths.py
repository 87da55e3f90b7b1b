# SPDX-License-Identifier: Apache-2.0
"""Folders of the bundle, and the name under which its code is imported."""

from __future__ import annotations

from pathlib import Path

BUNDLE = Path(__file__).resolve().parents[2]
SCRIPTS = BUNDLE / "scripts"
CONFIGS = BUNDLE / "configs"
SUITES = CONFIGS / "experiments"
# "scripts" inside the bundle's folder, "spine_fracture.scripts" where the package is installed.
PACKAGE = __name__.removesuffix(".core.paths")
