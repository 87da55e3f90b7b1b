# SPDX-License-Identifier: Apache-2.0
"""Names of a network's output channels, logits (B, C, *size).

Background and fracture are the classes of one softmax, those of the paper. Every further output, where a network has it, is a
sigmoid of its own: *vertebra*, intact or fractured; *body*, the vertebral body. A network has the first outputs of ``OUTPUTS``, so
that their number, all that an exported model shows of them, names them.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

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


def probabilities(logits: torch.Tensor) -> torch.Tensor:
    """Probabilities of all outputs of logits (B, C, *size): the softmax of the classes, and a sigmoid of every further output."""
    return torch.cat([torch.softmax(logits[:, :NUM_CLASSES], dim=1), torch.sigmoid(logits[:, NUM_CLASSES:])], dim=1)
