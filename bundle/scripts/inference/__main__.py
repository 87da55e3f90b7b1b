# SPDX-License-Identifier: Apache-2.0
"""Command line of the inference package: ``python -m scripts.inference PATH --out DIR``, run inside ``bundle/``."""

from __future__ import annotations

import sys
from collections.abc import Callable

from ..core.cli import run
from ..evaluation.tune_postprocessing import tune
from .export import export
from .segment import segment

COMMANDS: dict[str, Callable] = {"segment": segment, "export": export, "tune": tune}


def main() -> None:
    """Run a command; without the name of one, ``segment``."""
    if len(sys.argv) > 1 and sys.argv[1] not in COMMANDS:
        sys.argv.insert(1, "segment")
    run(COMMANDS, name="scripts.inference")


if __name__ == "__main__":
    main()
