# SPDX-License-Identifier: Apache-2.0
"""Handlers of an id of their own in a list of handlers."""

from __future__ import annotations

from typing import TypeVar

Handler = TypeVar("Handler")


def referenced(handler: Handler) -> Handler:
    """Return a handler that other parts of the config refer to by its id; MONAI Label reads lists of targets, not of references."""
    return handler
