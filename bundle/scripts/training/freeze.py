# SPDX-License-Identifier: Apache-2.0
"""Parts of a network that keep their weights in fine-tuning."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn

from ..core.errors import InputError


def trainable(network: nn.Module, frozen: Sequence[str] = ()) -> list[nn.Parameter]:
    """Freeze parts of a network and return the parameters that are left to train.

    A frozen part keeps the running statistics of its normalisation, too, and drops nothing out: it stays in evaluation mode.

    Args:
        network: network, changed in place.
        frozen: names of its direct parts, such as "encoder".

    Raises:
        InputError: for a name that is no part of the network, or when nothing is left to train.
    """
    parts = dict(network.named_children())
    for name in [frozen] if isinstance(frozen, str) else frozen:
        if name not in parts:
            raise InputError(f"frozen={name!r}: the network has no such part; it has {', '.join(parts)}")
        parts[name].requires_grad_(False)
        # The trainer puts the whole network into training mode before each step.
        parts[name].register_forward_pre_hook(lambda module, _: module.eval() and None)
    left = [p for p in network.parameters() if p.requires_grad]
    if not left:
        raise InputError(f"frozen={list(frozen)}: nothing is left to train; leave a part out")
    return left


def only_output(network: nn.Module, layer: str = "decoder.head", output: int = 2) -> list[nn.Parameter]:
    """Leave one output to train and freeze everything else: what the other outputs say does not change at all.

    Args:
        network: network, changed in place; it stays in evaluation mode.
        layer: name of its last convolution.
        output: number of the output.

    Raises:
        InputError: when there is no such layer or output.
    """
    last = dict(network.named_modules()).get(layer)
    if last is None or not isinstance(getattr(last, "weight", None), torch.Tensor):
        raise InputError(f"layer={layer!r}: the network has no such convolution; name its last one")
    parameters = list(last.parameters())
    if not 0 <= output < len(parameters[0]):
        raise InputError(
            f"output={output}: {layer} has {len(parameters[0])} outputs; set network_def::vertebra_output to true"
        )
    network.requires_grad_(False)
    for parameter in parameters:
        parameter.requires_grad_(True)
        keep = torch.zeros(len(parameter), *[1] * (parameter.dim() - 1), device=parameter.device)
        keep[output] = 1
        parameter.register_hook(lambda gradient, keep=keep: gradient * keep)
    # The trainer puts the network into training mode before each step.
    network.register_forward_pre_hook(lambda module, _: module.eval() and None)
    return parameters
