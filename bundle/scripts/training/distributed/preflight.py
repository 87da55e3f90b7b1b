# SPDX-License-Identifier: Apache-2.0
"""Checks before the first epoch, in the main process only."""

from __future__ import annotations

from typing import Any

import torch.distributed as dist

from ..preflight import preflight as check_all
from .processes import is_main, world_size


def preflight(**arguments: Any) -> None:
    """Run ``scripts.training.preflight.preflight`` in the main process, while the others wait."""
    if is_main():
        check_all(**arguments)
    if world_size() > 1:
        dist.barrier()
