# SPDX-License-Identifier: Apache-2.0
"""The moving average spans a fraction of the steps and is a function of the weights of every step."""

from __future__ import annotations

import pytest
import torch
from ignite.engine import Engine, Events
from ignite.handlers import EMAHandler
from scripts.core.errors import InputError
from scripts.training.moving_average import MovingAverage


def run(steps: int, memory: float = 0.1, min_momentum: float = 0.0005, start: int = 0, state: dict | None = None):
    """Average of a network whose weight after step t is t, and the momenta."""
    network = torch.nn.Sequential(torch.nn.Linear(1, 1), torch.nn.BatchNorm1d(1))
    handler = MovingAverage(network, memory=memory, min_momentum=min_momentum)
    if state is not None:
        handler.ema_model.load_state_dict(state)
    momenta: list[float] = []

    def step(engine, batch):
        with torch.no_grad():
            for parameter in network.parameters():
                parameter.fill_(float(engine.state.iteration))
            network[1].running_mean.fill_(float(engine.state.iteration))
            network[1].num_batches_tracked.fill_(engine.state.iteration)

    trainer = Engine(step)
    handler.attach(trainer)
    trainer.add_event_handler(Events.ITERATION_COMPLETED, lambda engine: momenta.append(engine.state.ema_momentum))
    trainer.state.iteration, trainer.state.epoch_length, trainer.state.max_epochs = start, steps, 1
    trainer.run(range(steps), max_epochs=1, epoch_length=steps) if not start else None
    if start:
        for t in range(start + 1, steps + 1):
            trainer.state.iteration = t
            step(trainer, None)
            handler._set_momentum(trainer, "ema_momentum")
            handler._update_ema_model(trainer, "ema_momentum")
    return handler.ema_model, momenta


def test_initial_weights_are_forgotten():
    average, momenta = run(5)
    assert momenta == [1.0] * 5
    assert float(average[0].weight.detach()) == 5.0


def test_average_spans_a_fraction_of_the_steps():
    for steps in (100, 400):
        average, momenta = run(steps)
        assert momenta[-1] == pytest.approx(10 / steps)
        lag = steps - float(average[0].weight.detach())
        assert 0.05 * steps < lag < 0.15 * steps


def test_momentum_has_a_lower_bound():
    assert run(300, min_momentum=0.05)[1][-1] == 0.05


def test_running_statistics_are_averaged_too():
    average, _ = run(100)
    assert float(average[1].running_mean) == pytest.approx(float(average[0].weight.detach()), rel=1e-5)
    assert int(average[1].num_batches_tracked) == 100
    assert not average.training


def test_continuation_from_a_state_is_the_same():
    whole = run(60)[0].state_dict()
    part = run(60, start=40, state=run(40)[0].state_dict())[0].state_dict()
    assert all(torch.equal(whole[k], part[k]) for k in whole)


@pytest.mark.parametrize(("name", "value"), [("memory", 0.0), ("memory", 1.0), ("min_momentum", -0.1)])
def test_bad_numbers_are_refused(name, value):
    with pytest.raises(InputError, match=f"{name}={value}"):
        MovingAverage(torch.nn.Linear(1, 1), **{name: value})


def test_average_equals_that_of_ignite():
    torch.manual_seed(0)
    network = torch.nn.Sequential(torch.nn.Conv2d(1, 3, 3), torch.nn.BatchNorm2d(3))
    ours, theirs = MovingAverage(network), EMAHandler(network, handle_buffers="update")
    engine = Engine(lambda *_: None)
    for momentum in (1.0, 0.3, 0.01, 0.0005):
        with torch.no_grad():
            for parameter in network.parameters():
                parameter.add_(torch.randn_like(parameter))
        network(torch.rand(4, 1, 8, 8))
        engine.state.momentum = momentum
        for handler in (ours, theirs):
            handler._update_ema_model(engine, "momentum")
    first, second = ours.ema_model.state_dict(), theirs.ema_model.state_dict()
    assert first.keys() == second.keys()
    for name in first:
        torch.testing.assert_close(first[name], second[name], rtol=1e-5, atol=1e-7)
    assert int(first["1.num_batches_tracked"]) == 4
