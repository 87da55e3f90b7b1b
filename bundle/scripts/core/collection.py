# SPDX-License-Identifier: Apache-2.0
"""Python's garbage collection during imports: the libraries' objects stay, and searching them takes a tenth of a start."""

from __future__ import annotations

import gc
import sys
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def imports_kept() -> Iterator[None]:
    """Import without collections, and leave what was imported out of later ones, in the process of a command.

    One search of the objects of PyTorch and MONAI takes a tenth to a third of a second. Nothing is set aside when the block imports
    no module. What is garbage when it ends stays until the process does, so it is not for notebooks and servers.
    """
    enabled, before = gc.isenabled(), len(sys.modules)
    gc.disable()
    try:
        yield
    finally:
        if len(sys.modules) > before:
            gc.freeze()
        if enabled:
            gc.enable()
