# SPDX-License-Identifier: Apache-2.0
"""The error that ends a run with one clear line instead of a traceback."""

from __future__ import annotations


class InputError(SystemExit):
    """Something the user gave cannot be used; the message names it, its value and the remedy.

    It derives from ``SystemExit`` because MONAI wraps every ``Exception`` raised while a config is resolved into several of its
    own; this one passes through, prints its line and ends the process with status 1. Raise it only in steps that run before any
    work starts and never in a transform, which may run in a worker thread or inside a server.
    """
