# SPDX-License-Identifier: Apache-2.0
"""Networks: MSFFNet with one block a file, the baselines it is compared with, and the names of their output channels."""

from __future__ import annotations

from .msffnet import MSFFNet

__all__ = ["MSFFNet"]
