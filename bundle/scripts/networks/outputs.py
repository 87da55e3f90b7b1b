# SPDX-License-Identifier: Apache-2.0
"""Output channels of a network."""

from __future__ import annotations

CLASSES = 2  # outputs that are background and fracture; one behind them is the logit of vertebra, intact or fractured
UNTRAINED_LOGIT = -2.0  # of vertebra before it is trained: a probability of 0.12
