# SPDX-License-Identifier: Apache-2.0
"""Checkpoints of earlier versions: weights saved under the former name of a submodule."""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from torch import nn


class RenamedSubmodules(nn.Module):
    """Base class of a module with renamed submodules: ``load_state_dict`` accepts their former names, too."""

    FORMER_NAMES: ClassVar[dict[str, str]] = {}
    """Former name of a submodule to its present one."""

    @classmethod
    def rename_keys(cls, state: dict[str, Any], prefix: str = "") -> None:
        """Rename the keys of a state dict in place.

        Args:
            state: flat state dict of a network.
            prefix: position of this module in the network, with a dot at its end.
        """
        for former, name in cls.FORMER_NAMES.items():
            for key in [k for k in state if k.startswith(f"{prefix}{former}.")]:
                state[f"{prefix}{name}.{key.removeprefix(f'{prefix}{former}.')}"] = state.pop(key)

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *args: Any, **kwargs: Any) -> None:
        self.rename_keys(state_dict, prefix)
        super()._load_from_state_dict(state_dict, prefix, *args, **kwargs)


def with_present_names(network: nn.Module, state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Copy of a flat state dict whose keys are those of the network's ``state_dict``."""
    renamed = dict(state)
    for name, module in network.named_modules():
        if isinstance(module, RenamedSubmodules):
            module.rename_keys(renamed, f"{name}." if name else "")
    return renamed
