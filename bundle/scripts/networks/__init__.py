# SPDX-License-Identifier: Apache-2.0
"""Networks. They know nothing of data."""

from __future__ import annotations

from .msffnet import MSFFNet

__all__ = ["MSFFNet"]
