# SPDX-License-Identifier: Apache-2.0
"""Command line of the data package: ``python -m scripts.data <command>``, run inside ``bundle/``."""

from __future__ import annotations

import fire

from .phantom_dataset import phantom
from .simulate import simulate
from .verse import verse


def main() -> None:
    """Run a command."""
    fire.Fire({"phantom": phantom, "verse": verse, "simulate": simulate}, name="scripts.data")


if __name__ == "__main__":
    main()
