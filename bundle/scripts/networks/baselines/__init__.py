# SPDX-License-Identifier: Apache-2.0
"""Published segmentation networks that MSFFNet is compared with, with its interface: images of any size to maps of logits."""

from __future__ import annotations

from .deeplab import DeepLabV3Plus
from .fcn import FCN8s
from .residual_unet import ResidualEncoderUNet
from .segnet import SegNet
from .spine_gan import SpineGANSegmenter
from .spine_gan_discriminator import SpineGANDiscriminator
from .unet_plus_plus import UNetPlusPlus

__all__ = ["DeepLabV3Plus", "FCN8s", "ResidualEncoderUNet", "SegNet", "SpineGANDiscriminator", "SpineGANSegmenter", "UNetPlusPlus"]
