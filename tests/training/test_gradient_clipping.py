# SPDX-License-Identifier: Apache-2.0
"""Gradients of a step of MONAI's trainer have at most the given norm."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
from monai.engines import SupervisedTrainer
from scripts.core.errors import InputError
from scripts.training.gradient_clipping import GradientClipping


def largest_change(max_norm: float | None, loss_scale: float) -> float:
    """Norm of the change of the weights in a step of SGD with rate 1."""
    torch.manual_seed(0)
    network = torch.nn.Linear(4, 1)
    before = [p.detach().clone() for p in network.parameters()]
    trainer = SupervisedTrainer(
        device=torch.device("cpu"),
        max_epochs=1,
        train_data_loader=[{"image": torch.ones(2, 4), "label": torch.zeros(2, 1)}],
        network=network,
        optimizer=torch.optim.SGD(network.parameters(), lr=1.0),
        loss_function=lambda prediction, label: loss_scale * (prediction - label + 1).sum(),
        train_handlers=[GradientClipping(max_norm)],
    )
    trainer.run()
    return float(torch.cat([(p - b).flatten() for p, b in zip(network.parameters(), before, strict=True)]).norm())


def test_large_gradients_are_clipped():
    assert largest_change(0.5, 100.0) == pytest.approx(0.5, rel=1e-4)


def test_small_gradients_are_unchanged():
    assert largest_change(50.0, 0.1) == pytest.approx(0.1 * 2 * (4 + 1) ** 0.5, rel=1e-4)


def test_without_limit_nothing_is_clipped():
    assert largest_change(None, 100.0) == pytest.approx(100.0 * 2 * (4 + 1) ** 0.5, rel=1e-4)


def test_gradients_are_unscaled_first():
    network = torch.nn.Linear(4, 1)
    optimizer = torch.optim.SGD(network.parameters(), lr=1.0)
    scaler = torch.amp.GradScaler("cpu", init_scale=1024.0)
    scaler.scale(network(torch.ones(1, 4)).sum()).backward()
    trainer = SimpleNamespace(amp=True, scaler=scaler, optimizer=optimizer)
    GradientClipping(100.0)(trainer)
    assert network.weight.grad.tolist() == [[1.0] * 4]


@pytest.mark.parametrize("norm", [0.0, -1.0, float("nan")])
def test_a_norm_is_positive(norm):
    with pytest.raises(InputError, match="max_gradient_norm"):
        GradientClipping(norm)
