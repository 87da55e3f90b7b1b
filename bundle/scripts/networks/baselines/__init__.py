# SPDX-License-Identifier: Apache-2.0
"""Networks of other papers, to compare MSFFNet with."""

from __future__ import annotations

from .spine_gan import SpineGANSegmenter
from .spine_gan_discriminator import SpineGANDiscriminator

__all__ = ["SpineGANDiscriminator", "SpineGANSegmenter"]
