# SPDX-License-Identifier: Apache-2.0
"""Names of a network's output channels, logits (B, C, *size), and networks without the channels that were not trained.

Background and fracture are the classes of one softmax, those of the paper. Every further output, where a network has it, is a
sigmoid of its own: *vertebra*, intact or fractured; *body*, the vertebral body. A network has the first outputs of ``OUTPUTS``, so
that their number, all that an exported model shows of them, names them.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn

OUTPUTS = ("background", "fracture", "vertebra", "body")
BACKGROUND, FRACTURE, VERTEBRA, BODY = range(len(OUTPUTS))
NUM_CLASSES = 2  # channels of the softmax
AUXILIARY = OUTPUTS[NUM_CLASSES:]
UNTRAINED_LOGIT = -2.0  # bias of an auxiliary output before its training: a probability of 0.12


def check_auxiliary(names: Sequence[str]) -> tuple[str, ...]:
    """Auxiliary outputs of a network, in order.

    Raises:
        ValueError: for a name that is unknown, one whose predecessor is missing, or anything but names.
    """
    given = (names,) if isinstance(names, str) or not isinstance(names, Sequence) else tuple(names)
    if given != AUXILIARY[: len(given)]:
        possible = ", ".join(f"[{', '.join(AUXILIARY[:n])}]" for n in range(len(AUXILIARY) + 1))
        raise ValueError(f"auxiliary_outputs={list(given)}: must be one of {possible}")
    return given


def output_names(num_outputs: int) -> tuple[str, ...]:
    """Names of the outputs of a network by their number.

    Raises:
        ValueError: for a number of outputs that no network of this project has.
    """
    if not NUM_CLASSES <= num_outputs <= len(OUTPUTS):
        raise ValueError(f"{num_outputs} outputs: a network has {NUM_CLASSES} to {len(OUTPUTS)}, the first of {', '.join(OUTPUTS)}")
    return OUTPUTS[:num_outputs]


class TrainedOutputs(nn.Module):
    """Network without its last outputs, which its weights lack.

    Args:
        network: network with logits (B, C, *size).
        num_outputs: number of outputs that were trained.
    """

    def __init__(self, network: nn.Module, num_outputs: int) -> None:
        super().__init__()
        self.network, self.num_outputs = network, num_outputs
        self.train(network.training)
        stride = getattr(network, "stride", None)
        if isinstance(stride, int):  # of the sizes that a network accepts without padding, for its export
            self.stride = stride

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Map an image (B, in_channels, *size) to the trained logits (B, num_outputs, *size)."""
        return self.network(x)[:, : self.num_outputs]


def trained_outputs(network: nn.Module) -> nn.Module:
    """Network without the outputs that its loaded weights lack (``num_trained_outputs``), or the network itself."""
    trained = getattr(network, "num_trained_outputs", None)
    return network if trained is None else TrainedOutputs(network, trained)
