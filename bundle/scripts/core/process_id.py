# SPDX-License-Identifier: Apache-2.0
"""Processes of this machine by their number."""

from __future__ import annotations

import os


def process_exists(pid: int) -> bool:
    """True for a process that runs, or that may run: on Windows there is no way to find out without sending a signal."""
    if os.name == "nt":
        return True
    try:
        os.kill(pid, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except OSError:
        return True
    return True
