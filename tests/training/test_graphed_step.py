# SPDX-License-Identifier: Apache-2.0
"""A step that is captured and replayed trains as MONAI's own step does, batch by batch."""

from __future__ import annotations

import logging
from contextlib import nullcontext

import pytest
import torch
from ignite.engine import Events
from monai.engines import SupervisedTrainer
from scripts.training.gradient_clipping import GradientClipping
from scripts.training.graphed_step import GraphedStep, graphed_step
from scripts.training.history import loss_of
from scripts.training.schedule import WarmupCosine


class Repeated(GraphedStep):
    """Graph on a CPU: its replay computes the step anew from the same tensors."""

    def _side_stream(self):
        return nullcontext()

    def _capture(self, engine, image, label):
        self.image, self.label = image.clone(), label.clone()

        def replay():
            with torch.enable_grad():
                self._output = self._step(engine, self.image, self.label)

        return replay


class Failing(Repeated):
    """Graph that cannot be captured."""

    def _capture(self, engine, image, label):
        raise RuntimeError("operation not permitted when stream is capturing\nsecond line")


def equal(first, second):
    """Equality but for the rounding of the learning rate, which is a tensor of 32 bits in a graph."""
    return all(torch.allclose(first[k], second[k], rtol=1e-4, atol=1e-6) for k in first)


def batches(sizes=(4, 4, 4, 4, 4, 2)):
    generator = torch.Generator().manual_seed(1)
    for size in sizes:
        image = torch.rand(size, 1, 8, 8, generator=generator)
        yield {"image": image, "label": (image > 0.5).float()}


def train(update, epochs=2, sizes=(4, 4, 4, 4, 4, 2), **kwargs):
    """Weights, losses as reported in every step, and the trainer."""
    torch.manual_seed(0)
    network = torch.nn.Sequential(
        torch.nn.Conv2d(1, 4, 3, padding=1, bias=False), torch.nn.BatchNorm2d(4), torch.nn.Conv2d(4, 1, 1)
    )
    optimizer = torch.optim.AdamW(network.parameters(), lr=0.01)
    schedule = WarmupCosine(optimizer, warmup=3)
    trainer = SupervisedTrainer(
        device=torch.device("cpu"), max_epochs=epochs, train_data_loader=list(batches(sizes)), network=network, optimizer=optimizer,
        loss_function=torch.nn.BCEWithLogitsLoss(), train_handlers=[GradientClipping(1.0)], iteration_update=update, **kwargs,
    )  # fmt: skip
    losses = []
    trainer.add_event_handler(Events.ITERATION_COMPLETED, lambda e: losses.append(loss_of(e.state.output)))
    trainer.add_event_handler(Events.ITERATION_COMPLETED, lambda e: schedule.step(e.state.iteration / 20))
    trainer.run()
    return network.state_dict(), losses, trainer


def test_weights_equal_those_of_plain_steps():
    plain, graphed = train(None)[0], train(Repeated())[0]
    assert equal(plain, graphed)


def test_loss_is_that_of_the_step_before_and_at_the_end_its_own():
    plain, graphed = train(None, epochs=1, sizes=[4] * 8)[1], train(Repeated(warm_up=3), epochs=1, sizes=[4] * 8)[1]
    assert graphed[:4] == pytest.approx(plain[:4], rel=1e-4)  # ordinary steps, and the first replay
    assert graphed[4:7] == pytest.approx(plain[3:6], rel=1e-4)
    assert graphed[7] == pytest.approx(plain[7], rel=1e-4)


def test_loss_is_named_by_its_own_step_and_batch():
    named = []

    class Watched(Repeated):
        def __call__(self, engine, batchdata):
            output = super().__call__(engine, batchdata)
            if self._replay is not None:
                named.append((engine.state.loss_step, engine.state.loss_batch is batchdata))
            return output

    train(Watched(warm_up=1), epochs=1, sizes=[4] * 5)
    assert named == [((1, 2), True), ((1, 2), False), ((1, 3), False), ((1, 5), True)]


def test_schedule_reaches_the_captured_optimizer():
    trainer = train(Repeated())[2]
    rate = trainer.optimizer.param_groups[0]["lr"]
    assert isinstance(rate, torch.Tensor)
    assert 0 < float(rate) < 0.01


@pytest.mark.parametrize("update", [Failing(), Failing(warm_up=0)])
def test_failed_capture_trains_on_with_one_line(update, caplog):
    with caplog.at_level(logging.WARNING):
        weights = train(update)[0]
    plain = train(None)[0]
    assert equal(plain, weights)
    lines = [r.getMessage() for r in caplog.records if "CUDA graph" in r.getMessage()]
    assert lines == ["training steps run without a CUDA graph: operation not permitted when stream is capturing"]


def test_accumulated_gradients_are_not_captured(caplog):
    with caplog.at_level(logging.WARNING):
        weights = train(Repeated(), accumulation_steps=2)[0]
    plain = train(None, accumulation_steps=2)[0]
    assert equal(plain, weights)
    assert "accumulated" in caplog.text


@pytest.mark.parametrize("enabled", ["auto", False, "false"])
def test_a_cpu_has_the_step_of_monai(enabled):
    assert graphed_step(enabled, "cpu") is None


@pytest.mark.parametrize(("enabled", "message"), [(True, "must be a GPU"), ("true", "must be a GPU"), ("yes", "must be auto")])
def test_bad_settings_are_refused(enabled, message):
    with pytest.raises(ValueError, match=message):
        graphed_step(enabled, "cpu")


@pytest.mark.skipif(not torch.cuda.is_available(), reason="requires a GPU")
def test_a_graph_of_a_gpu_trains_like_plain_steps():  # pragma: no cover - no GPU in CI
    assert isinstance(graphed_step("auto", "cuda"), GraphedStep)
