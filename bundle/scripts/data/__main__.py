# SPDX-License-Identifier: Apache-2.0
"""Command line of the data package: ``python -m scripts.data <command>``, run inside ``bundle/``."""

from __future__ import annotations

from collections.abc import Callable

from ..cli import run
from .build import build
from .check import check
from .folder import folder
from .instances import ctspine1k, totalsegmentator
from .phantom_dataset import phantom
from .preview import preview
from .render_dataset import render
from .rsna import rsna
from .simulate import simulate
from .split import split
from .verse import verse

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
