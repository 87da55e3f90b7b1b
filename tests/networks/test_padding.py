# SPDX-License-Identifier: Apache-2.0
"""Padding to a multiple of the stride, and its inverse."""

from __future__ import annotations

import torch
from monai.transforms import DivisiblePad
from scripts.networks.padding import crop_to, pad_to_multiple


def test_padding_replicates_the_border_and_crop_undoes_it():
    x = torch.rand(1, 2, 5, 16, 9)
    padded = pad_to_multiple(x, 8)
    assert padded.shape == (1, 2, 8, 16, 16)
    assert torch.equal(padded[:, :, 4:8, :, :9], x[:, :, 4:].expand(-1, -1, 4, -1, -1))
    assert torch.equal(padded[0], DivisiblePad(8, mode="replicate", method="end")(x[0]))
    assert torch.equal(crop_to(padded, x.shape[2:]), x)


def test_padding_reaches_the_smallest_size_and_no_more():
    assert pad_to_multiple(torch.rand(1, 2, 5, 16, 9), 8, min_multiples=3).shape == (1, 2, 24, 24, 24)
    assert pad_to_multiple(torch.rand(1, 1, 17, 3), 8, min_multiples=2).shape == (1, 1, 24, 16)
    image = torch.rand(1, 1, 16, 8)
    assert pad_to_multiple(image, 8) is image
