# SPDX-License-Identifier: Apache-2.0
"""Outputs by name: the names follow from their number, wrong names are refused."""

from __future__ import annotations

import pytest
import torch
from scripts.networks.outputs import AUXILIARY, NUM_CLASSES, OUTPUTS, check_auxiliary, output_names, probabilities


@pytest.mark.parametrize("number", range(len(AUXILIARY) + 1))
def test_number_and_names_of_outputs_are_equivalent(number):
    names = check_auxiliary(list(AUXILIARY[:number]))
    assert output_names(NUM_CLASSES + len(names)) == ("background", "fracture", *names)


def test_a_single_name_needs_no_list():
    assert check_auxiliary("vertebra") == ("vertebra",)


@pytest.mark.parametrize(
    "names",
    [["body"], ["body", "vertebra"], ["vertebra", "vertebra"], ["vertebra", "disc"], [*AUXILIARY, "core"], None, True, 3, [None]],
)
def test_wrong_names_are_refused_with_the_possible_ones(names):
    with pytest.raises(ValueError, match=r"auxiliary_outputs=\[.*: must be one of \[\], \[vertebra\], \[vertebra, body\]"):
        check_auxiliary(names)


@pytest.mark.parametrize("number", [-1, 0, 1, len(OUTPUTS) + 1])
def test_a_number_without_names_is_refused(number):
    with pytest.raises(
        ValueError, match=rf"^{number} outputs: a network has 2 to 4, the first of background, fracture, vertebra, body"
    ):
        output_names(number)


def test_probabilities_are_a_softmax_of_two_and_sigmoids():
    logits = torch.randn(2, 4, 3, 3, generator=torch.Generator().manual_seed(0))
    found = probabilities(logits)
    torch.testing.assert_close(found[:, :2].sum(1), torch.ones(2, 3, 3))
    torch.testing.assert_close(found[:, 1], torch.sigmoid(logits[:, 1] - logits[:, 0]))
    torch.testing.assert_close(found[:, 2:], torch.sigmoid(logits[:, 2:]))
