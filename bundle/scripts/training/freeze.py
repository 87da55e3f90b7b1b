# SPDX-License-Identifier: Apache-2.0
"""Parts of a network whose weights are frozen in fine-tuning."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn

from ..core.errors import InputError
from ..networks.outputs import OUTPUTS


def _keep_in_eval_mode(module: nn.Module) -> None:
    """Fix running statistics and disable dropout, although the trainer calls ``train()`` on the network before each step."""
    module.register_forward_pre_hook(lambda module, _: module.eval() and None)


def trainable(network: nn.Module, frozen: Sequence[str] = ()) -> list[nn.Parameter]:
    """Freeze parts of a network and return the remaining parameters.

    A frozen part stays in evaluation mode: fixed running statistics, no dropout.

    Args:
        network: network, changed in place.
        frozen: names of its direct children, such as "encoder".

    Raises:
        InputError: for a name that is not a part of the network, or when no parameter remains.
    """
    parts = dict(network.named_children())
    for name in [frozen] if isinstance(frozen, str) else frozen:
        if name not in parts:
            raise InputError(f"frozen={name!r}: the network has no such part; its parts are {', '.join(parts)}")
        parts[name].requires_grad_(False)
        _keep_in_eval_mode(parts[name])
    parameters = [p for p in network.parameters() if p.requires_grad]
    if not parameters:
        raise InputError(f"frozen={list(frozen)}: no parameter is left to train; remove a part from the list")
    return parameters


def only_output(network: nn.Module, layer: str = "decoder.head", output: str | int = "vertebra") -> list[nn.Parameter]:
    """Freeze everything but one output channel; the other output channels do not change at all.

    Args:
        network: network, changed in place; it stays in evaluation mode.
        layer: name of its last convolution.
        output: name of the output channel, see ``networks.outputs``, or its index.

    Raises:
        InputError: when there is no such layer or output.
    """
    last = dict(network.named_modules()).get(layer)
    if last is None or not isinstance(getattr(last, "weight", None), torch.Tensor):
        raise InputError(f"layer={layer!r}: the network has no such convolution; must be the name of its last one")
    if isinstance(output, str) and output not in OUTPUTS:
        raise InputError(f"output={output!r}: must be one of {', '.join(OUTPUTS)}")
    index = OUTPUTS.index(output) if isinstance(output, str) else output
    parameters = list(last.parameters())
    if not 0 <= index < len(parameters[0]):
        raise InputError(f"output={output}: {layer} has {len(parameters[0])} outputs; add it to network_def::auxiliary_outputs")
    network.requires_grad_(False)
    for parameter in parameters:
        parameter.requires_grad_(True)
        mask = torch.zeros(len(parameter), *[1] * (parameter.dim() - 1), device=parameter.device)
        mask[index] = 1
        parameter.register_hook(lambda gradient, mask=mask: gradient * mask)
    _keep_in_eval_mode(network)
    return parameters
