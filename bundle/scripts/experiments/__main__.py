# SPDX-License-Identifier: Apache-2.0
"""Command line of the experiments package: ``python -m scripts.experiments <command>``, run inside ``bundle/``."""

from __future__ import annotations

from collections.abc import Callable

from ..core.cli import run as run_command
from .reproduce import reproduce
from .run import run, status
from .search import search, search_report
from .table import table

COMMANDS: dict[str, Callable] = {
    "run": run,
    "status": status,
    "table": table,
    "reproduce": reproduce,
    "search": search,
    "search_report": search_report,
}


def main() -> None:
    """Run a command."""
    run_command(COMMANDS, name="scripts.experiments")


if __name__ == "__main__":
    main()
