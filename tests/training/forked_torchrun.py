# SPDX-License-Identifier: Apache-2.0
"""torchrun for two processes that are forked from one with the libraries.

Launcher, rendezvous, variables and signals are those of torchrun; only the imports, ten seconds of every process, are made once.
"""

from __future__ import annotations

import runpy
import sys

from torch.distributed.launcher.api import LaunchConfig, elastic_launch


def process(arguments: list[str]) -> None:
    """One of the two processes."""
    module = arguments[0] == "-m"
    sys.argv = arguments[module:]
    try:
        (runpy.run_module if module else runpy.run_path)(sys.argv[0], run_name="__main__")
    except Exception:
        sys.excepthook(*sys.exc_info())  # as the interpreter does; multiprocessing has a line of its own
        sys.exit(1)


def launch(arguments: list[str]) -> None:
    """Run ``SCRIPT ...`` or ``-m MODULE ...`` in two processes."""
    config = LaunchConfig(
        min_nodes=1,
        max_nodes=1,
        nproc_per_node=2,
        rdzv_backend="c10d",
        rdzv_endpoint="localhost:0",
        max_restarts=0,
        start_method="fork",
    )
    elastic_launch(config, process)(arguments)
