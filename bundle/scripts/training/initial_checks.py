# SPDX-License-Identifier: Apache-2.0
"""Checks of device and network before anything else is made of a config: one line in place of a traceback of MONAI."""

from __future__ import annotations

from copy import deepcopy

import torch

from ..core.config_diff import running_parser
from ..core.errors import InputError
from .sampling import root_cause


def check_device(device: str | torch.device) -> None:
    """Refuse a device that this machine or this PyTorch lacks.

    Args:
        device: value of the config.

    Raises:
        InputError: with the devices that there are.
    """
    try:
        chosen = torch.device(device)
    except (RuntimeError, TypeError):
        raise InputError(f"device={device}: is no device of PyTorch; must be cpu, cuda or cuda:N") from None
    if chosen.type != "cuda":
        return
    if not torch.cuda.is_available():
        built = "its driver or GPU is not available" if torch.version.cuda else "this PyTorch was built without CUDA"
        raise InputError(f"device={device}: {built} (PyTorch {torch.__version__}); leave --device out, or set --device cpu")
    if chosen.index is not None and chosen.index >= torch.cuda.device_count():
        raise InputError(f"device={device}: this machine has {torch.cuda.device_count()} GPU(s); must be below that number")


def check_network(name: str = "network_def") -> None:
    """Construct the network of the config whose resolution called this function, and discard it.

    Args:
        name: id of the network.

    Raises:
        InputError: with the reason why it cannot be constructed, such as widths out of range.
    """
    from monai.bundle import ConfigParser

    parser = running_parser()
    if parser is None:
        return
    trial = ConfigParser(deepcopy(parser.get()))
    try:
        with torch.random.fork_rng(devices=[]):  # so that the weights of the run do not depend on this check
            trial.get_parsed_content(name)
    except Exception as error:
        raise InputError(f"{name}: {root_cause(error)}; see the options of this network in docs/training.md") from None
