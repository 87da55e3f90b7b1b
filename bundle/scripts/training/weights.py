# SPDX-License-Identifier: Apache-2.0
"""Loading weights with an answer that a person can read."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import nn

from ..core.errors import InputError
from ..networks.outputs import UNTRAINED_LOGIT

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


def widened(network: nn.Module, state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Fit a state that was made for fewer input channels: they become the middle ones, and the new ones start at 0.

    So a network of one slice goes on as one of 2.5D that answers as before. Weights that differ in anything else stay as they are.

    Args:
        network: network with more input channels.
        state: flat state dict; not changed.
    """
    own, result = network.state_dict(), dict(state)
    for key, value in state.items():
        want = own[key].shape if key in own else value.shape
        more = want[1] - value.shape[1] if len(want) == value.dim() > 2 else 0
        if more > 0 and more % 2 == 0 and want == (value.shape[0], want[1], *value.shape[2:]):
            result[key] = value.new_zeros(want)
            result[key][:, more // 2 : more // 2 + value.shape[1]] = value
            logger.info(
                "%s has %d input channels, %d are wanted: the new ones start at 0", key, value.shape[1], want[1]
            )
    return result


def with_outputs(network: nn.Module, state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Fit a state to a network with or without the third output, vertebra: lacking, it stays silent; in excess, it is left out.

    The fracture is told as before. Weights that differ in anything else stay as they are.

    Args:
        network: network to be filled.
        state: flat state dict; not changed.
    """
    own, result = network.state_dict(), dict(state)
    for key, value in state.items():
        name = f"{key.removesuffix('.weight')}.bias"
        if not key.endswith(".weight") or key not in own or name not in own or name not in state:
            continue
        want = own[key].shape
        if value.shape[1:] != want[1:] or {len(value), want[0]} != {2, 3}:
            continue
        if want[0] == 2:
            result[key], result[name] = value[:2], state[name][:2]
            logger.info("%s has a third output (vertebra), two are wanted: it is left out", key)
        else:
            result[key] = torch.cat([value, torch.zeros_like(value[:1])])
            result[name] = torch.cat([state[name], torch.full_like(state[name][:1], UNTRAINED_LOGIT)])
            logger.info("%s has no third output (vertebra): it stays silent until it is trained", key)
    return result


def load_weights(
    network: nn.Module,
    path: str | None,
    device: str | torch.device = "cpu",
    widen: bool = False,
    exact: bool = False,
) -> nn.Module:
    """Load a flat state dict (or one under the key ``model``) into the network, strictly.

    Args:
        network: network to fill, changed in place and returned.
        path: checkpoint; None leaves the network as it is.
        device: where the tensors are mapped to.
        widen: take weights made for fewer input channels, too; see ``widened``.
        exact: refuse weights with or without the third output where the network differs in it; see ``with_outputs``.

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
    if isinstance(state, dict) and all(isinstance(v, torch.Tensor) for v in state.values()):
        state = widened(network, state) if widen else state
        state = state if exact else with_outputs(network, state)
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
