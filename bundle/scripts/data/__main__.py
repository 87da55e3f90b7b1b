# SPDX-License-Identifier: Apache-2.0
"""Command line of the data package: ``python -m scripts.data <command>``, run inside ``bundle/``."""

from __future__ import annotations

from collections.abc import Callable

from ..core.cli import run
from ..simulation.datasets.build import build
from ..simulation.datasets.phantom import phantom
from ..simulation.datasets.render import render
from ..simulation.datasets.simulate import simulate
from .checks.report import check
from .datasets.folder import folder
from .datasets.rsna import rsna
from .datasets.verse import verse
from .datasets.vertebra_masks import ctspine1k, totalsegmentator
from .preview import preview
from .split import split

COMMANDS: dict[str, Callable] = {
    "build": build,
    "phantom": phantom,
    "verse": verse,
    "rsna": rsna,
    "totalsegmentator": totalsegmentator,
    "ctspine1k": ctspine1k,
    "folder": folder,
    "render": render,
    "simulate": simulate,
    "split": split,
    "check": check,
    "preview": preview,
}


def main() -> None:
    """Run a command."""
    run(COMMANDS, name="scripts.data")


if __name__ == "__main__":
    main()
