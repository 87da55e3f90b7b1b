# SPDX-License-Identifier: Apache-2.0
"""Loading weights with an answer that a person can read."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import nn

from ..errors import InputError

logger = logging.getLogger(__name__)


def weight_problem(network: nn.Module, state: object) -> str | None:
    """Return one line that says why a state does not fit the network, or None."""
    if not isinstance(state, dict) or not all(isinstance(v, torch.Tensor) for v in state.values()):
        return "holds no flat state dict of tensors"
    own = network.state_dict()
    wrong = [k for k in own if k in state and own[k].shape != state[k].shape]
    if wrong:
        k = wrong[0]
        return f"was made by another network: {k} is {tuple(state[k].shape)} there and {tuple(own[k].shape)} in network_def"
    missing, extra = [k for k in own if k not in state], [k for k in state if k not in own]
    if missing or extra:
        first = f"lacks {missing[0]}" if missing else f"has {extra[0]} in addition"
        return f"was made by another network: it {first} ({len(missing)} missing, {len(extra)} extra)"
    return None


def load_weights(network: nn.Module, path: str | None, device: str | torch.device = "cpu") -> nn.Module:
    """Load a flat state dict (or one under the key ``model``) into the network, strictly.

    Args:
        network: network to fill, changed in place and returned.
        path: checkpoint; None leaves the network as it is.
        device: where the tensors are mapped to.

    Raises:
        InputError: when the file is missing, unreadable or of another network.
    """
    if not path:
        return network
    file = Path(path)
    if not file.is_file():
        raise InputError(f"{file}: no such checkpoint; train first or set `checkpoint` to a file with weights")
    try:
        state = torch.load(file, map_location=device, weights_only=True)
    except Exception as error:
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise InputError(
            f"{file}: cannot be read as weights ({reason[:120]}); it may be truncated, copy it again"
        ) from None
    if isinstance(state, dict) and isinstance(state.get("model"), dict):
        state = state["model"]
    problem = weight_problem(network, state)
    if problem:
        raise InputError(f"{file}: {problem}; use the network config that the checkpoint was trained with")
    network.load_state_dict(state)
    logger.info("weights loaded from %s", file)
    return network


def load_members(ensemble: nn.Module, checkpoints: Sequence[str]) -> nn.Module:
    """Load one checkpoint into each member of a ``MeanEnsemble``; see ``load_weights`` for what is refused."""
    for member, path in zip(ensemble.members, checkpoints, strict=True):  # type: ignore[arg-type]
        load_weights(network=member, path=path)
    return ensemble
