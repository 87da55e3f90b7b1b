# SPDX-License-Identifier: Apache-2.0
"""Names of the code in configs: ``scripts.…``, which an installed package prefixes."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from .paths import PACKAGE

BUNDLE_NAME = "scripts"
NAME = re.compile(rf"\b(?<!\.){BUNDLE_NAME}(?=\.[A-Za-z_])")


def localise(content: Any, package: str = PACKAGE) -> Any:
    """Copy of a config whose targets and expressions name the code as it is imported here.

    Args:
        content: config or a part of it; within the bundle's folder it is returned as it is.
        package: name of the code.
    """
    if package == BUNDLE_NAME:
        return content
    if isinstance(content, Mapping):
        return {
            key: NAME.sub(package, value) if key == "_target_" and isinstance(value, str) else localise(value, package)
            for key, value in content.items()
        }
    if isinstance(content, list):
        return [localise(value, package) for value in content]
    return NAME.sub(package, content) if isinstance(content, str) and content[:1] == "$" else content


def portable(content: Any, package: str = PACKAGE) -> Any:
    """Copy of a config whose targets and expressions name the code as within the bundle's folder: the inverse of ``localise``."""
    if package == BUNDLE_NAME:
        return content
    if isinstance(content, Mapping):
        return {
            key: _renamed(value, package) if key == "_target_" and isinstance(value, str) else portable(value, package)
            for key, value in content.items()
        }
    if isinstance(content, list):
        return [portable(value, package) for value in content]
    return _renamed(content, package) if isinstance(content, str) and content[:1] == "$" else content


def _renamed(text: str, package: str) -> str:
    return re.sub(rf"\b(?<!\.){re.escape(package)}(?=\.[A-Za-z_])", BUNDLE_NAME, text)
