# SPDX-License-Identifier: Apache-2.0
"""MSFFNet: the multi-scale feature-fusion network of Saeed et al. 2024."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import nn

from .aspp import AtrousSpatialPyramidPooling
from .bottleneck import SegmentationDecoder
from .encoder import UNetEncoder
from .ffm import FeatureFusionModule
from .lprab import LocalPositionResidualAttention
from .outputs import AUXILIARY, NUM_CLASSES, UNTRAINED_LOGIT, check_auxiliary
from .padding import crop_to, pad_to_multiple
from .rbrab import ResidualBorderRefinementAttention
from .rcbam import ResidualConvBlockAttention
from .sem import SqueezeExcitationModule


class MSFFNet(nn.Module):
    """Multi-scale feature-fusion network for the segmentation of spine fractures in CT.

    Saeed, Bin, Sheng, Albarakati: "An Automated Multi-scale Feature Fusion Network for Spine Fracture Segmentation Using Computed
    Tomography Images", 2024. The wiring is that of the paper; each choice that the paper does not state is an argument, and is
    named in the docstring of its module::

        image -- U-Net encoder -- blocks 2-5 -- FFM -- SEM --+-- ASPP -- RCBAM -- RBRAB -- LPRAB -- gate --(+)-- decoder --> logits
                                                             |----------------------------------------------|

    The path around the refining modules is not stated in the paper. Without it the network trained far more slowly than a U-Net:
    gradients passed a dozen narrow convolutions on their way to the encoder.

    The input may have any size: it is padded to a multiple of ``stride`` and the output is cropped. Convolutions have PyTorch's
    default initialisation (He initialisation, twice as wide, learned more slowly), normalisations start as the identity, the last
    convolution has zero bias.

    Args:
        spatial_dims: 2 (the paper) or 3.
        in_channels: channels of the image.
        out_channels: classes of the softmax, background included.
        auxiliary_outputs: further output channels, each the logit of a sigmoid: the first of "vertebra" and "body", see
            ``networks.outputs``.
        features: channels of the five encoder blocks. The default is the paper's "standard U-Net"; the shipped weights have a
            quarter of it.
        fusion_channels: channels of the fused map from ASPP on; None: twice ``features[0]``, at least 32. Narrower maps are cheaper
            and learn slowly.
        fusion_stride: size of the image divided by the size of the fused map: 2, 4, 8 or 16.
        encoder_strides: strides of the three bottleneck encoders.
        decoder_channels: channels of the last layers of the decoder, transposed convolution and before; None: ``features[0]``.
        transposed_stride: stride of the transposed convolution. ``fusion_stride`` times the product of ``encoder_strides`` must
            be four times this.
        aspp_rates: dilation of each ASPP branch.
        refinement_gate: initial value of the learned weight at which ASPP to LPRAB are added to the fused map. None: they replace
            it.
        attention_tokens: keys and values per axis of the self-attention in RBRAB.
        attention_query_stride: stride of the queries of that self-attention.
        use_ffm: False: encoder features are passed on without fusion.
        use_sem: False: no channel gates; the 1x1 projection to one size remains.
        use_aspp: False: identity.
        use_rcbam: False: identity.
        use_rbrab: False: identity.
        use_lprab: False: identity.
        act: activation.
        norm: normalisation.
        dropout: dropout probability in the encoder, the attention blocks and before the last layer.
        vertebra_output: name of ``auxiliary_outputs=["vertebra"]`` before version 0.7; not None replaces ``auxiliary_outputs``.

    Raises:
        ValueError: when an argument is out of range or the strides do not fit; the message names value and remedy.
    """

    def __init__(
        self,
        spatial_dims: int = 2,
        in_channels: int = 1,
        out_channels: int = NUM_CLASSES,
        auxiliary_outputs: Sequence[str] = (),
        features: Sequence[int] = (64, 128, 256, 512, 1024),
        fusion_channels: int | None = None,
        fusion_stride: int = 2,
        encoder_strides: Sequence[int] = (2, 2, 1),
        transposed_stride: int = 2,
        aspp_rates: Sequence[int] = (1, 4, 8, 16),
        refinement_gate: float | None = 0.1,
        attention_tokens: int = 16,
        attention_query_stride: int = 2,
        use_ffm: bool = True,
        use_sem: bool = True,
        use_aspp: bool = True,
        use_rcbam: bool = True,
        use_rbrab: bool = True,
        use_lprab: bool = True,
        act: str | tuple = ("relu", {"inplace": True}),
        norm: str | tuple = "batch",
        dropout: float = 0.0,
        vertebra_output: bool | None = None,
        decoder_channels: int | None = None,
    ) -> None:
        super().__init__()
        if vertebra_output is not None:
            auxiliary_outputs = AUXILIARY[:1] if vertebra_output else ()
        num_auxiliary = len(check_auxiliary(auxiliary_outputs))
        if num_auxiliary and out_channels != NUM_CLASSES:
            raise ValueError(
                f"MSFFNet: out_channels={out_channels} with auxiliary_outputs={list(auxiliary_outputs)}; must be {NUM_CLASSES}, "
                "or set auxiliary_outputs to []."
            )
        if spatial_dims not in (2, 3):
            raise ValueError(f"MSFFNet: spatial_dims={spatial_dims}; must be 2 or 3.")
        if len(features) != 5 or min(features) < 1:
            raise ValueError(f"MSFFNet: features={tuple(features)}; must be the positive widths of five encoder blocks.")
        if fusion_stride not in (2, 4, 8, 16):
            raise ValueError(f"MSFFNet: fusion_stride={fusion_stride}; must be 2, 4, 8 or 16.")
        if not 0.0 <= dropout < 1.0:
            raise ValueError(f"MSFFNet: dropout={dropout}; must be a probability of at least 0 and below 1.")
        if decoder_channels is not None and (not isinstance(decoder_channels, int) or decoder_channels < 1):
            raise ValueError(f"MSFFNet: decoder_channels={decoder_channels!r}; must be at least 1, or null for features[0].")
        width = fusion_channels or max(8 * math.ceil(2 * features[0] / 8), 32)
        if width % 4:
            raise ValueError(f"MSFFNet: fusion_channels={width}; must be a multiple of 4 (four levels are concatenated).")
        self.spatial_dims = spatial_dims
        self.decoder_in_stride = fusion_stride
        levels = tuple(features[1:])
        # Both the deepest encoder block and the bottleneck of the decoder need a size without remainder.
        self.stride = math.lcm(16, fusion_stride * math.prod(encoder_strides))

        shared: dict[str, Any] = {"spatial_dims": spatial_dims, "act": act, "norm": norm}
        refining: dict[str, Any] = {"channels": width, "dropout": dropout, **shared}
        self.encoder = UNetEncoder(in_channels=in_channels, features=features, dropout=dropout, **shared)
        self.ffm: nn.Module | None = FeatureFusionModule(channels=levels, **shared) if use_ffm else None
        self.sem = SqueezeExcitationModule(
            channels=levels, out_channels=width // 4, target_level=int(math.log2(fusion_stride)) - 1, excite=use_sem, **shared
        )
        self.aspp: nn.Module = nn.Identity()
        self.rcbam: nn.Module = nn.Identity()
        self.rbrab: nn.Module = nn.Identity()
        self.lprab: nn.Module = nn.Identity()
        if use_aspp:
            self.aspp = AtrousSpatialPyramidPooling(in_channels=width, out_channels=width, rates=aspp_rates, **shared)
        if use_rcbam:
            self.rcbam = ResidualConvBlockAttention(**refining)
        if use_rbrab:
            self.rbrab = ResidualBorderRefinementAttention(
                token_grid=attention_tokens, query_stride=attention_query_stride, **refining
            )
        if use_lprab:
            self.lprab = LocalPositionResidualAttention(**refining)
        self.refinement_gate: nn.Parameter | None = None
        if refinement_gate is not None and (use_aspp or use_rcbam or use_rbrab or use_lprab):
            self.refinement_gate = nn.Parameter(torch.tensor(float(refinement_gate)))
        self.decoder = SegmentationDecoder(
            in_channels=width,
            hidden_channels=decoder_channels or features[0],
            out_channels=out_channels + num_auxiliary,
            in_stride=fusion_stride,
            encoder_strides=encoder_strides,
            transposed_stride=transposed_stride,
            dropout=dropout,
            **shared,
        )
        nn.init.zeros_(self.decoder.head.bias)
        if num_auxiliary:
            nn.init.zeros_(self.decoder.head.weight[-num_auxiliary:])
            nn.init.constant_(self.decoder.head.bias[-num_auxiliary:], UNTRAINED_LOGIT)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Map an image (B, in_channels, *size) to logits (B, C, *size): ``out_channels`` and the auxiliary outputs.

        ``size`` is (H, W), of a 3D network (H, W, D). A 2D network also segments the N slices of volumes (N, H, W).
        """
        if self.spatial_dims == 2 and x.dim() == 5:
            batch, slices = x.shape[0], x.shape[2]
            y = self._segment(x.transpose(1, 2).flatten(0, 1))
            return y.reshape(batch, slices, y.shape[1], y.shape[2], y.shape[3]).transpose(1, 2)
        return self._segment(x)

    def _segment(self, x: torch.Tensor) -> torch.Tensor:
        features = self.encoder(pad_to_multiple(x, self.stride))[1:]
        if self.ffm is not None:
            features = self.ffm(features)
        fused = self.sem(features)
        refined = self.lprab(self.rbrab(self.rcbam(self.aspp(fused))))
        if self.refinement_gate is not None:
            refined = fused + self.refinement_gate * refined
        return crop_to(self.decoder(refined), x.shape[2:])
