# SPDX-License-Identifier: Apache-2.0
"""Run a command that ends when its parent does: ``python -m scripts.experiments.child PARENT COMMAND...``.

A worker that is killed with SIGKILL cannot end its training. Left alone, the training would go on beside the one that takes its
folder up again, and both would write there. Linux can be told to kill a process when its parent is gone; elsewhere the command
runs as it is.
"""

from __future__ import annotations

import ctypes
import os
import signal
import sys
from contextlib import suppress

PR_SET_PDEATHSIG = 1


def guarded(command: list[str]) -> list[str]:
    """Command line that runs ``command`` until this process ends."""
    if not sys.platform.startswith("linux"):
        return command
    return [sys.executable, "-m", "scripts.experiments.child", str(os.getpid()), *command]


def main() -> None:
    """Become the command."""
    parent, command = int(sys.argv[1]), sys.argv[2:]
    with suppress(OSError, AttributeError):  # without such a C library the claim of the folder is all there is
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:  # it ended before the line above
        raise SystemExit(1)
    os.execvp(command[0], command)


if __name__ == "__main__":
    main()
