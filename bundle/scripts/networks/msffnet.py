# SPDX-License-Identifier: Apache-2.0
"""MSFFNet: the multi-scale feature-fusion network of Saeed et al. 2024."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import nn
from torch.nn import functional

from .aspp import AtrousSpatialPyramidPooling
from .bottleneck import SegmentationDecoder
from .encoder import UNetEncoder
from .ffm import FeatureFusionModule
from .lprab import LocalPositionResidualAttention
from .outputs import UNTRAINED_LOGIT
from .rbrab import ResidualBorderRefinementAttention
from .rcbam import ResidualConvBlockAttention
from .sem import SqueezeExcitationModule


class MSFFNet(nn.Module):
    """Multi-scale feature-fusion network for the segmentation of spine fractures in CT.

    Saeed, Bin, Sheng, Albarakati: "An Automated Multi-scale Feature Fusion Network for Spine Fracture Segmentation Using Computed
    Tomography Images", 2024. The wiring follows the paper; where it is silent the choice is an argument and named in the docstring
    of the module::

        image -- U-Net encoder -- blocks 2-5 -- FFM -- SEM --+-- ASPP -- RCBAM -- RBRAB -- LPRAB -- gate --(+)-- decoder --> logits
                                                             |----------------------------------------------|

    The path around the refining modules is not stated in the paper. Without it the network learned far more slowly than a U-Net: a
    gradient had to pass a dozen narrow convolutions on its way to the encoder.

    Any input size is taken: the image is padded inside to a multiple of the stride and the output cropped back. The output holds
    logits, not probabilities. Convolutions start from PyTorch's default initialisation (He's, twice as wide, learned more slowly),
    normalisations from the identity, the last convolution from zero bias.

    Args:
        spatial_dims: 2 (the paper) or 3.
        in_channels: channels of the image.
        out_channels: classes, background included.
        vertebra_output: one more output behind the classes, the logit of *vertebra*, intact or fractured. It says no everywhere
            until ``VertebraLoss`` trains it. Not in the paper.
        features: channels of the five encoder blocks. The paper's "standard U-Net" has the default; a quarter of it is shipped.
        fusion_channels: channels of the fused map from ASPP on; None takes twice ``features[0]``, at least 32: narrower maps are
            cheaper and learn slowly.
        fusion_stride: size of the image divided by the size of the fused map: 2, 4, 8 or 16.
        encoder_strides: strides of the three bottleneck encoders.
        transposed_stride: stride of the transposed convolution. ``fusion_stride`` times the product of ``encoder_strides`` must
            be four times this.
        aspp_rates: dilation of each ASPP branch.
        refinement_gate: initial weight of what ASPP to LPRAB add to the fused map; it is learned. None: they replace the fused map.
        attention_tokens: keys and values per axis of the self-attention in RBRAB.
        attention_query_stride: every n-th position per axis of the fused map asks in that attention.
        use_ffm: False: the encoder's levels go on unfused.
        use_sem: False: no channel gate; the 1x1 projection to one size stays.
        use_aspp: False: identity.
        use_rcbam: False: identity.
        use_rbrab: False: identity.
        use_lprab: False: identity.
        act: activation.
        norm: normalisation.
        dropout: dropout probability in the encoder, the attention blocks and before the last layer.

    Raises:
        ValueError: when an argument is out of range or the strides do not fit; the message names value and remedy.
    """

    def __init__(
        self,
        spatial_dims: int = 2,
        in_channels: int = 1,
        out_channels: int = 2,
        vertebra_output: bool = False,
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
    ) -> None:
        super().__init__()
        if spatial_dims not in (2, 3):
            raise ValueError(f"MSFFNet: spatial_dims={spatial_dims}; give 2 or 3.")
        if len(features) != 5 or min(features) < 1:
            raise ValueError(f"MSFFNet: features={tuple(features)}; give the positive widths of five encoder blocks.")
        if fusion_stride not in (2, 4, 8, 16):
            raise ValueError(f"MSFFNet: fusion_stride={fusion_stride}; give 2, 4, 8 or 16.")
        if not 0.0 <= dropout < 1.0:
            raise ValueError(f"MSFFNet: dropout={dropout}; give a probability of at least 0 and below 1.")
        width = fusion_channels or max(8 * math.ceil(2 * features[0] / 8), 32)
        if width % 4:
            raise ValueError(f"MSFFNet: fusion_channels={width}; give a multiple of 4 (four levels are concatenated).")
        self.spatial_dims = spatial_dims
        self.decoder_in_stride = fusion_stride
        levels = tuple(features[1:])
        # The deepest block and the bottleneck of the decoder both have to come out whole.
        self.stride = math.lcm(16, fusion_stride * math.prod(encoder_strides))

        self.encoder = UNetEncoder(spatial_dims, in_channels, features, act=act, norm=norm, dropout=dropout)
        self.ffm: nn.Module | None = FeatureFusionModule(spatial_dims, levels, act=act, norm=norm) if use_ffm else None
        self.sem = SqueezeExcitationModule(
            spatial_dims,
            levels,
            out_channels=width // 4,
            target_level=int(math.log2(fusion_stride)) - 1,
            excite=use_sem,
            act=act,
            norm=norm,
        )
        self.aspp: nn.Module = (
            AtrousSpatialPyramidPooling(spatial_dims, width, width, rates=aspp_rates, act=act, norm=norm)
            if use_aspp
            else nn.Identity()
        )
        self.rcbam: nn.Module = (
            ResidualConvBlockAttention(spatial_dims, width, act=act, norm=norm, dropout=dropout)
            if use_rcbam
            else nn.Identity()
        )
        self.rbrab: nn.Module = (
            ResidualBorderRefinementAttention(
                spatial_dims,
                width,
                token_grid=attention_tokens,
                query_stride=attention_query_stride,
                act=act,
                norm=norm,
                dropout=dropout,
            )
            if use_rbrab
            else nn.Identity()
        )
        self.lprab: nn.Module = (
            LocalPositionResidualAttention(spatial_dims, width, act=act, norm=norm, dropout=dropout)
            if use_lprab
            else nn.Identity()
        )
        self.refinement_gate: nn.Parameter | None = None
        if refinement_gate is not None and (use_aspp or use_rcbam or use_rbrab or use_lprab):
            self.refinement_gate = nn.Parameter(torch.tensor(float(refinement_gate)))
        self.decoder = SegmentationDecoder(
            spatial_dims,
            in_channels=width,
            hidden_channels=features[0],
            out_channels=out_channels + vertebra_output,
            in_stride=fusion_stride,
            encoder_strides=encoder_strides,
            transposed_stride=transposed_stride,
            act=act,
            norm=norm,
            dropout=dropout,
        )
        nn.init.zeros_(self.decoder.head.bias)
        if vertebra_output:
            nn.init.zeros_(self.decoder.head.weight[-1:])
            nn.init.constant_(self.decoder.head.bias[-1:], UNTRAINED_LOGIT)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Map an image (B, in_channels, *size) to logits (B, out_channels, *size), with that of vertebra behind them if asked for.

        ``size`` is (H, W) or (H, W, D); of a 2D network it may be (N, H, W), a volume whose N slices are taken one by one.
        """
        if self.spatial_dims == 2 and x.dim() == 5:
            batch, slices = x.shape[0], x.shape[2]
            y = self._segment(x.transpose(1, 2).flatten(0, 1))
            return y.reshape(batch, slices, y.shape[1], y.shape[2], y.shape[3]).transpose(1, 2)
        return self._segment(x)

    def _segment(self, x: torch.Tensor) -> torch.Tensor:
        size = x.shape[2:]
        pads: list[int] = []
        for axis in range(self.spatial_dims - 1, -1, -1):
            pads.extend([0, -size[axis] % self.stride])
        if max(pads) > 0:
            x = functional.pad(x, pads, mode="replicate")
        features = self.encoder(x)[1:]
        if self.ffm is not None:
            features = self.ffm(features)
        fused = self.sem(features)
        refined = self.lprab(self.rbrab(self.rcbam(self.aspp(fused))))
        if self.refinement_gate is not None:
            refined = fused + self.refinement_gate * refined
        x = self.decoder(refined)
        x = x[:, :, : size[0], : size[1]]
        if self.spatial_dims == 3:
            x = x[..., : size[2]]
        return x
