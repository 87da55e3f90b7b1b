# SPDX-License-Identifier: Apache-2.0
"""Output channels of a network, logits (B, C, *size).

The first two channels are the classes of one softmax: background and fracture. The third, where a network has one, is the logit of
a separate sigmoid: vertebra, intact or fractured.
"""

from __future__ import annotations

BACKGROUND, FRACTURE, VERTEBRA = 0, 1, 2
NUM_CLASSES = 2  # channels of the softmax
UNTRAINED_LOGIT = -2.0  # bias of VERTEBRA before its training: a probability of 0.12
