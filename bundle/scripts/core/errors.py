# SPDX-License-Identifier: Apache-2.0
"""Errors of one line: those that end a run, and those that a server returns."""

from __future__ import annotations

import sys

UNPROCESSABLE = 422  # HTTP status


class InputError(SystemExit):
    """Unusable input of the user; the message names it, its value and the remedy.

    It derives from ``SystemExit`` because MONAI wraps every ``Exception`` raised while a config is resolved into several of its
    own; this one passes through, prints its line and ends the process with status 1. Raise it only in steps that run before any
    work starts and never in a transform, which may run in a worker thread or inside a server.
    """


class SkippedCasesError(InputError):
    """Failures of single cases, after everything else was written; several parts of a set collect them."""


def served() -> bool:
    """Return True in a process of MONAI Label: its server, or a task that the server started."""
    return "monailabel" in sys.modules


def refusal(reason: BaseException | str) -> Exception:
    """Exception that carries a reason to the caller or, through MONAI Label, to its client.

    ``InputError`` ends a process, which a server must survive, and any other exception reaches a client of MONAI Label as
    "Internal Server Error" alone. Its web framework puts the detail of an ``HTTPException`` into the response.

    Args:
        reason: a line that names file, value and remedy, or an exception that carries it; further lines are left out.

    Returns:
        ``HTTPException`` with status 422 below MONAI Label, else ``ValueError``.
    """
    line = first_line(reason)
    if not served():
        return ValueError(line)
    from starlette.exceptions import HTTPException

    return HTTPException(UNPROCESSABLE, line)


def first_line(error: BaseException | str) -> str:
    """First non-empty line of an error's message, or the name of its type where it has none."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[0] if lines else type(error).__name__


def last_line(error: BaseException | str) -> str:
    """Last non-empty line of an error's message, where ITK and zlib put the cause, or the name of its type."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[-1] if lines else type(error).__name__
