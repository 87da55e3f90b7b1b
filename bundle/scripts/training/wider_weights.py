# SPDX-License-Identifier: Apache-2.0
"""Weights of a narrower network as the start of a wider one with equal output (function-preserving, arXiv:1511.05641)."""

from __future__ import annotations

import logging

import torch
from torch import nn

logger = logging.getLogger(__name__)
HEAD = "decoder.head.weight"  # of MSFFNet: (outputs, channels of the last layers, 1, ...), one row per output
TRANSPOSED = "decoder.transposed.conv.weight"  # (channels before, channels of the last layers, ...)


def widen_inputs(network: nn.Module, state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Adapt a state dict of fewer input channels: they become the middle ones, and the weights of the new ones are 0.

    A network of single slices is continued as one of 2.5D with the same output. Weights that differ otherwise are unchanged.

    Args:
        network: network with more input channels.
        state: flat state dict; not changed.
    """
    expected, result = network.state_dict(), dict(state)
    for key, value in state.items():
        shape = expected[key].shape if key in expected else value.shape
        added = shape[1] - value.shape[1] if len(shape) == value.dim() > 2 else 0
        if added > 0 and added % 2 == 0 and shape == (value.shape[0], shape[1], *value.shape[2:]):
            result[key] = value.new_zeros(shape)
            result[key][:, added // 2 : added // 2 + value.shape[1]] = value
            logger.info("%s has %d input channels, expected %d: the new ones are 0", key, value.shape[1], shape[1])
    return result


def widen_decoder(network: nn.Module, state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Adapt a state dict of MSFFNet to wider last layers (``decoder_channels``), with the same output.

    New channels have the initial weights of the network, so that they differ from one another; what they add to the channels of
    the checkpoint and to the outputs is 0. Weights that differ otherwise are unchanged. The output is equal for normalisations of
    single channels (batch, instance), not for groups of them.

    Args:
        network: network with wider last layers; not changed.
        state: flat state dict; not changed.
    """
    expected, result = network.state_dict(), dict(state)
    if HEAD not in state or HEAD not in expected or state[HEAD].dim() != expected[HEAD].dim():
        return result
    stored, required = state[HEAD].shape[1], expected[HEAD].shape[1]
    if required <= stored:
        return result
    for key, value in state.items():
        if key == HEAD:  # the number of outputs may differ, see ``match_outputs``
            result[key] = value.new_zeros(len(value), required, *value.shape[2:])
            result[key][:, :stored] = value
            continue
        new = expected.get(key)
        if new is None or not key.startswith("decoder.") or key.startswith("decoder.head.") or new.dim() != value.dim():
            continue
        if new.shape == value.shape or any(n < v for n, v in zip(new.shape, value.shape, strict=True)):
            continue
        result[key] = new.to(device=value.device, dtype=value.dtype, copy=True)
        if key == TRANSPOSED:
            result[key][stored:, :stored] = 0
        result[key][tuple(slice(n) for n in value.shape)] = value
    logger.info("last layers of %d channels, expected %d: what the new ones add is 0", stored, required)
    return result
