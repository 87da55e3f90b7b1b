# SPDX-License-Identifier: Apache-2.0
"""Command line of the evaluation package: ``python -m scripts.evaluation <command>``, run inside ``bundle/``."""

from __future__ import annotations

from collections.abc import Callable

from ..core.cli import run
from .compare import compare
from .score import score

COMMANDS: dict[str, Callable] = {"score": score, "compare": compare}


def main() -> None:
    """Run a command."""
    run(COMMANDS, name="scripts.evaluation")


if __name__ == "__main__":
    main()
