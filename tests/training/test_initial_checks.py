# SPDX-License-Identifier: Apache-2.0
"""A device or a network that cannot be is one line, before anything is made."""

from __future__ import annotations

import pytest
import torch
from monai.bundle import ConfigParser
from scripts.core.errors import InputError
from scripts.training.initial_checks import check_device, check_network

NETWORK = {
    "_target_": "scripts.networks.MSFFNet",
    "spatial_dims": 2,
    "in_channels": 1,
    "out_channels": 2,
    "features": [4, 4, 4, 4, 4],
    "fusion_channels": 8,
}


def check(**changes: object) -> None:
    """Check the network of a config, as its list `initialize` does."""
    parser = ConfigParser(
        {"network_def": {**NETWORK, **changes}, "check": {"_target_": f"{check_network.__module__}.check_network"}}
    )
    parser.get_parsed_content("check")


def test_the_cpu_is_always_there():
    check_device("cpu")
    check_device(torch.device("cpu"))


def test_a_gpu_that_is_not_there_is_refused(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(InputError, match=r"^device=cuda: .*\(PyTorch .*\); leave --device out, or set --device cpu$"):
        check_device("cuda")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    check_device("cuda:1")
    with pytest.raises(InputError, match=r"device=cuda:2: this machine has 2 GPU"):
        check_device("cuda:2")


@pytest.mark.parametrize("value", ["gpu", "cuda:x", ""])
def test_words_that_are_no_device_are_refused(value):
    with pytest.raises(InputError, match=f"device={value}: is no device of PyTorch; must be cpu, cuda"):
        check_device(value)


@pytest.mark.parametrize("features", [[8, 16], [4, 4, 4, 4, -3], 7, [4, 4, 4, 4, "a"], [], None])
def test_wrong_widths_are_one_line(features):
    with pytest.raises(InputError, match=r"^network_def: ") as caught:
        check(features=features)
    assert len(str(caught.value).splitlines()) == 1


def test_a_check_does_not_change_the_weights():
    torch.manual_seed(0)
    expected = torch.rand(3)
    torch.manual_seed(0)
    check()
    assert torch.equal(torch.rand(3), expected)


def test_outside_a_config_nothing_is_checked():
    check_network()
