# SPDX-License-Identifier: Apache-2.0
"""Strict loading of weights, with error lines that name file and difference."""

from __future__ import annotations

import logging
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn

from ..core.errors import InputError, first_line
from ..networks.outputs import NUM_CLASSES, OUTPUTS, UNTRAINED_LOGIT
from ..networks.renamed_weights import with_present_names
from ..networks.weights_checksum import check_file, check_finite
from ..networks.weights_description import WeightsDescription, canonical_class, description_of
from .wider_weights import widen_decoder, widen_inputs

logger = logging.getLogger(__name__)
PICKLE = b"\x80"  # first byte of a pickle; the archives of torch.save begin with another


def weight_problem(network: nn.Module, state: object) -> str | None:
    """Reason, in one line, why a state dict does not fit the network, or None."""
    if not isinstance(state, dict) or not all(isinstance(v, torch.Tensor) for v in state.values()):
        return "contains no flat state dict of tensors"
    expected = network.state_dict()
    for k in expected:
        if k in state and expected[k].shape != state[k].shape:
            stored, required = tuple(state[k].shape), tuple(expected[k].shape)
            return f"belongs to another network: {k} has shape {stored}, network_def expects {required}"
    missing, extra = [k for k in expected if k not in state], [k for k in state if k not in expected]
    if missing or extra:
        first = f"lacks {missing[0]}" if missing else f"has an extra {extra[0]}"
        return f"belongs to another network: it {first} ({len(missing)} missing, {len(extra)} extra tensors)"
    return None


def match_outputs(network: nn.Module, state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Adapt a state dict to a network with more or fewer auxiliary outputs.

    A missing output is initialised to background, a superfluous one is left out; the outputs of background and fracture are
    unchanged, and so are weights that differ otherwise.

    Args:
        network: network to load into; not changed.
        state: flat state dict; not changed.
    """
    expected, result = network.state_dict(), dict(state)
    for key, value in state.items():
        name = f"{key.removesuffix('.weight')}.bias"
        if not key.endswith(".weight") or key not in expected or name not in expected or name not in state:
            continue
        stored, required = len(value), len(expected[key])
        possible = range(NUM_CLASSES, len(OUTPUTS) + 1)
        if value.shape[1:] != expected[key].shape[1:] or stored == required or not {stored, required} <= set(possible):
            continue
        if stored > required:
            result[key], result[name] = value[:required], state[name][:required]
            logger.info("%s: outputs %s are not loaded, the network lacks them", key, ", ".join(OUTPUTS[required:stored]))
        else:
            added = required - stored
            result[key] = torch.cat([value, value.new_zeros(added, *value.shape[1:])])
            result[name] = torch.cat([state[name], state[name].new_full((added,), UNTRAINED_LOGIT)])
            untrained = ", ".join(OUTPUTS[stored:required])
            logger.info("%s lacks the outputs %s: they are background until they are trained", key, untrained)
    return result


def flat_state(content: object) -> Any:
    """State dict of a file's content, which may hold it under the key ``model``; other content as it is."""
    return content["model"] if isinstance(content, dict) and isinstance(content.get("model"), dict) else content


def read_weights(path: str | Path, device: str | torch.device = "cpu") -> tuple[Any, WeightsDescription | None]:
    """Flat state dict and description of a file of weights.

    Args:
        path: file.
        device: where the tensors are mapped to.

    Returns:
        Content as it is stored, and the description, None where there is none.

    Raises:
        InputError: when the file is missing, unreadable, damaged by its checksums, holds Python objects besides tensors, NaN or
            infinite values, or has a damaged description.
    """
    file = Path(path)
    if not file.is_file():
        raise InputError(f"{file}: no such checkpoint; train first or set `checkpoint` to a file with weights")
    try:
        content = torch.load(file, map_location=device, weights_only=True)
    except Exception as error:
        raise InputError(f"{file}: {_unreadable(file, error)}") from None
    if (note := check_file(file)) is not None:
        logger.warning("%s", note)
    check_finite(flat_state(content), file)
    return flat_state(content), description_of(content, file)


def _unreadable(file: Path, error: Exception) -> str:
    """Reason and remedy of a file that PyTorch's loader of plain tensors refuses."""
    with file.open("rb") as stream:
        pickled = stream.read(1) == PICKLE
    if pickled or "Unsupported global" in str(error):
        found = re.search(r"GLOBAL ([\w.]+)", str(error))
        named = f" ({found[1]})" if found else ""
        return f"holds Python objects{named}, whose loading could run code, and is refused; save the network's state_dict() alone"
    return f"cannot be read as weights ({first_line(error)[:120]}); it may be truncated, copy it again"


def load_weights(
    network: nn.Module, path: str | None, device: str | torch.device = "cpu", widen: bool = False, exact: bool = False
) -> nn.Module:
    """Load a flat state dict (or one under the key ``model``) into the network, strictly.

    Args:
        network: network, changed in place and returned.
        path: checkpoint; None leaves the network unchanged.
        device: where the tensors are mapped to.
        widen: accept weights of fewer input channels or narrower last layers, see ``wider_weights``.
        exact: refuse weights with more or fewer auxiliary outputs, see ``match_outputs``.

    Raises:
        InputError: when the file is missing, unreadable or of another network.
    """
    if not path:
        return network
    file = Path(path)
    content, description = read_weights(file, device)
    state: object = content
    if isinstance(state, dict) and all(isinstance(v, torch.Tensor) for v in state.values()):
        state = with_present_names(network, state)
        state = widen_inputs(network, widen_decoder(network, state)) if widen else state
        state = state if exact else match_outputs(network, state)
    problem = weight_problem(network, state)
    if problem:
        trained = f" ({canonical_class(description.network['_target_'])})" if description is not None else ""
        raise InputError(f"{file}: {problem}; use the network config that the checkpoint was trained with{trained}")
    network.load_state_dict(state)  # type: ignore[arg-type]
    logger.info("weights loaded from %s", file)
    return network


def load_members(ensemble: nn.Module, checkpoints: Sequence[str]) -> nn.Module:
    """Load one checkpoint into each member of a ``MeanEnsemble``; see ``load_weights`` for its errors."""
    for member, path in zip(ensemble.members, checkpoints, strict=True):  # type: ignore[arg-type]
        load_weights(network=member, path=path)
    return ensemble
