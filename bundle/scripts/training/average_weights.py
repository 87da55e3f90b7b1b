# SPDX-License-Identifier: Apache-2.0
"""Mean of the weights of trainings that started from one another (Wortsman et al. 2022, arXiv:2203.05482)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from ..core.errors import InputError
from ..networks.weights_description import WeightsDescription, with_description
from .checkpoint_files import write_checkpoint
from .weights import flat_state, read_weights

USE = ("network", "spacing", "hu_window", "outside_hu", "patch_size", "neighbours", "neighbour_mm", "outputs", "plane")


def _check(path: str, state: dict, description: WeightsDescription | None, first: str, reference: tuple) -> None:
    """Refuse weights of another network or another input than those of the first file."""
    expected, expected_description = reference
    shapes, own = ({k: tuple(v.shape) for k, v in s.items()} for s in (expected, state))
    if different := sorted(k for k in shapes.keys() | own.keys() if shapes.get(k) != own.get(k)):
        raise InputError(f"{path}: is of another network than {first}, {different[0]}; must be weights of one network")
    if description is None or expected_description is None:
        raise InputError(f"{path if description is None else first}: has no description; add one with `weights describe`")
    for name in USE:
        values = [getattr(d, name) for d in (expected_description, description)]
        if values[0] != values[1]:
            raise InputError(f"{path}: {name}={values[1]}, and {values[0]} in {first}; must be equal")


def average(weights: Sequence[str], *, out: str, shares: Sequence[float] | None = None) -> None:
    """Write the mean of the weights of several files, such as those before and after a fine-tuning.

    Weights of one network and input, of which one training started from the other; means of trainings from different random
    weights are of no use. The description is that of the last file.

    Args:
        weights: files of weights (.pt), at least two, as "['a.pt','b.pt']".
        out: file to write.
        shares: share of each file, which sum to 1; equal by default.

    Raises:
        InputError: for files that cannot be read, of other networks or inputs, or shares that do not fit.
    """
    named = [weights] if isinstance(weights, str) else [str(w) for w in weights]
    if len(named) < 2:
        raise InputError(f"weights={named}: must be at least two files, such as \"['before.pt','after.pt']\"")
    parts = [1 / len(named)] * len(named) if shares is None else [float(s) for s in shares]
    if len(parts) != len(named) or min(parts) < 0 or abs(sum(parts) - 1) > 1e-6:
        raise InputError(f"shares={parts}: must be {len(named)} numbers of at least 0 that sum to 1")
    read = [(flat_state(content), description) for content, description in map(read_weights, named)]
    for path, (state, description) in zip(named[1:], read[1:], strict=True):
        _check(path, state, description, named[0], read[0])
    last, described = read[-1]
    assert described is not None
    mean = {
        key: sum(s * state[key].double() for s, (state, _) in zip(parts, read, strict=True)).to(value.dtype)
        if value.is_floating_point()
        else value
        for key, value in last.items()
    }
    described = replace(described, recipe={**described.recipe, "mean_of": len(named), "shares": [round(s, 4) for s in parts]})
    write_checkpoint(Path(out), with_description(mean, described.text()))
    print(f"{out}: mean of {', '.join(named)} with shares {', '.join(f'{s:g}' for s in parts)}")
