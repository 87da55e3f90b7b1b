# SPDX-License-Identifier: Apache-2.0
"""Command line of the label package: ``python -m scripts.label serve --studies DIR``, run inside ``bundle/``."""

from __future__ import annotations

from collections.abc import Callable

from ..core.cli import run
from .serve import serve

COMMANDS: dict[str, Callable] = {"serve": serve}


def main() -> None:
    """Run a command."""
    run(COMMANDS, name="scripts.label")


if __name__ == "__main__":
    main()
