# SPDX-License-Identifier: Apache-2.0
"""A step that is captured and replayed trains as MONAI's own step does, batch by batch."""

from __future__ import annotations

import json
import logging
from contextlib import nullcontext

import pytest
import torch
from conftest import BUNDLE
from ignite.engine import Events
from monai.bundle import ConfigParser
from monai.engines import SupervisedTrainer
from scripts.core.errors import InputError
from scripts.training.fit import fit
from scripts.training.gradient_clipping import GradientClipping
from scripts.training.graphed_step import GraphedStep, graphed_step
from scripts.training.history import loss_of
from scripts.training.nonfinite import NonFiniteLoss
from scripts.training.schedule import WarmupCosine


class Repeated(GraphedStep):
    """Graph on a CPU: its replay repeats the computation of the step on the same tensors."""

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


def train(update, epochs=2, sizes=(4, 4, 4, 4, 4, 2), device="cpu", **kwargs):
    """Weights, losses as reported in every step, and the trainer."""
    torch.manual_seed(0)
    network = torch.nn.Sequential(
        torch.nn.Conv2d(1, 4, 3, padding=1, bias=False), torch.nn.BatchNorm2d(4), torch.nn.Conv2d(4, 1, 1)
    )
    network.to(device)
    optimizer = torch.optim.AdamW(network.parameters(), lr=0.01)
    schedule = WarmupCosine(optimizer, warmup=3)
    trainer = SupervisedTrainer(
        device=torch.device(device), max_epochs=epochs, train_data_loader=list(batches(sizes)), network=network,
        optimizer=optimizer, loss_function=torch.nn.BCEWithLogitsLoss(),
        train_handlers=[GradientClipping(1.0)], iteration_update=update, **kwargs,
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


@pytest.mark.parametrize(("sizes", "captured"), [((4, 4, 4, 2), [4]), ((4, 2), [4]), ((2, 2, 2, 2, 4, 4), [2, 4])])
def test_the_largest_batches_are_captured(sizes, captured):
    made = []

    class Recorded(Repeated):
        def _capture(self, engine, image, label):
            made.append(len(image))
            return super()._capture(engine, image, label)

    graphed = train(Recorded(), epochs=3, sizes=sizes)[0]
    assert made == captured
    assert equal(train(None, epochs=3, sizes=sizes)[0], graphed)


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
def test_a_graph_of_a_gpu_trains_like_plain_steps():
    plain, graphed = train(None, device="cuda")[0], train(graphed_step("auto", "cuda"), device="cuda")[0]
    assert equal(plain, graphed)


def test_nonfinite_loss_is_reported_with_its_own_batch(tmp_path):
    sizes = [4] * 8
    data = list(batches(sizes))
    data[5]["image"][0, 0, 0, 0] = float("nan")
    for number, batch in enumerate(data):
        batch["case"] = [f"case_{number}"] * 4
    network = torch.nn.Conv2d(1, 1, 1)
    trainer = SupervisedTrainer(
        device=torch.device("cpu"), max_epochs=1, train_data_loader=data, network=network,
        optimizer=torch.optim.SGD(network.parameters(), lr=0.1), loss_function=torch.nn.BCEWithLogitsLoss(),
        train_handlers=[NonFiniteLoss(str(tmp_path))], iteration_update=Repeated(),
    )  # fmt: skip
    with pytest.raises(InputError, match=r"the loss was nan in epoch 1, step 6; cases: case_5"):
        fit(trainer)
    report = json.loads((tmp_path / "nonfinite_batch.json").read_text())
    assert (report["epoch"], report["iteration"]) == (1, 6)
    assert report["samples"][0]["image_not_finite"] == 1


def test_steps_of_the_recipe_read_no_value_on_the_host():
    """What a graph can hold: on the meta device every operation that depends on values raises."""
    parser = ConfigParser()
    names = ("train.yaml", "vertebra_loss.yaml", "vertebrae.yaml", "randomisation.yaml", "shipped.yaml")
    parser.read_config([str(BUNDLE / "configs" / name) for name in names])
    parser.read_meta(str(BUNDLE / "configs" / "metadata.json"))
    for key, value in {
        "bundle_root": str(BUNDLE),
        "device": "$torch.device('cpu')",
        "network_def::features": [4, 4, 8, 8, 8],
    }.items():
        parser[key] = value
    network = parser.get_parsed_content("network").to("meta").train()
    loss = parser.get_parsed_content("vertebra_loss")
    image, label = torch.rand(2, 5, 64, 64, device="meta"), torch.zeros(2, 1, 64, 64, device="meta")
    loss(network(image), label).backward()
    torch.nn.utils.clip_grad_norm_(network.parameters(), 5.0)
    assert all(p.grad is not None for p in network.parameters())
