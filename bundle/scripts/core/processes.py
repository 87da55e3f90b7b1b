# SPDX-License-Identifier: Apache-2.0
"""Rank and number of the processes that ``torchrun`` started."""

from __future__ import annotations

import os


def env_rank() -> int:
    """Rank of this process; 0 outside ``torchrun``."""
    return int(os.environ.get("RANK", "0"))


def env_world_size() -> int:
    """Number of processes; 1 outside ``torchrun``."""
    return int(os.environ.get("WORLD_SIZE", "1"))
