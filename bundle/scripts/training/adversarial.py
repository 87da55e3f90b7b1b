# SPDX-License-Identifier: Apache-2.0
"""Adversarial training of a segmentation network: a discriminator of predicted against true label maps."""

from __future__ import annotations

import contextlib
from typing import Any

import torch
from monai.engines.utils import IterationEvents
from monai.networks import one_hot
from monai.utils.enums import AdversarialIterationEvents, AdversarialKeys, CommonKeys
from torch import nn
from torch.nn import functional


class GeneratorLoss(nn.Module):
    """Adversarial loss of the segmentation network: weighted cross-entropy of the discriminator against "true".

    Args:
        weight: weight of this term relative to the segmentation loss; 1 in the authors' code of Spine-GAN.

    Raises:
        ValueError: when the weight is negative.
    """

    def __init__(self, weight: float = 1.0) -> None:
        super().__init__()
        if weight < 0:
            raise ValueError(f"GeneratorLoss: weight={weight}; must be at least 0, which trains without the discriminator.")
        self.weight = weight

    def forward(self, fake_logits: torch.Tensor) -> torch.Tensor:
        """Return the weighted loss of the discriminator's logits, any shape, for predicted maps."""
        return self.weight * functional.softplus(-fake_logits.float()).mean()


class DiscriminatorLoss(nn.Module):
    """Cross-entropy of the discriminator: true maps against 1 plus predicted maps against 0."""

    def forward(self, real_logits: torch.Tensor, fake_logits: torch.Tensor) -> torch.Tensor:
        """Return the loss of the discriminator's logits, of any shape, for true and for predicted maps."""
        return functional.softplus(-real_logits.float()).mean() + functional.softplus(fake_logits.float()).mean()


class SegmentationStep:
    """``iteration_update`` of MONAI's ``AdversarialTrainer`` for a discriminator of label maps.

    The trainer's default iteration uses the image as real and the output as fake, for reconstruction. Here the one-hot label is
    real and the softmax of the output is fake. The output holds ``loss`` in any precision, which MONAI 1.6 leaves out without AMP,
    and ``MODEL_COMPLETED`` is fired, which decollation and TensorBoard's loss need.

    As in the default iteration, the network is updated first and the discriminator second, with the same prediction. Where the
    label is ``ignore_index``, both maps are the same background, so these voxels have no influence and no gradient.

    Args:
        ignore_index: value of the label that is excluded.
        smoothing: true maps hold this and 1 - this in place of 0 and 1, so that hard values do not identify them; 0.01 in the
            authors' code of Spine-GAN.

    Raises:
        ValueError: when ``smoothing`` is out of range.
    """

    def __init__(self, ignore_index: int = 255, smoothing: float = 0.01) -> None:
        if not 0.0 <= smoothing < 0.5:
            raise ValueError(f"SegmentationStep: smoothing={smoothing}; must be at least 0 and less than 0.5.")
        self.ignore_index, self.smoothing = ignore_index, smoothing

    def maps(self, logits: torch.Tensor, target: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Return predicted and true class map (B, C, *size) from logits (B, C, *size) and labels (B, 1, *size)."""
        valid = target != self.ignore_index
        labels = torch.where(valid, target, torch.zeros_like(target))
        real = one_hot(labels, logits.shape[1], dtype=torch.float).clamp(self.smoothing, 1 - self.smoothing)
        return torch.where(valid, logits.float().softmax(dim=1), real), real

    def __call__(self, engine: Any, batchdata: dict[str, torch.Tensor]) -> dict[str, Any]:
        """Train the network, then the discriminator, with one batch; return MONAI's keys of an adversarial iteration."""
        state, keys, events = engine.state, AdversarialKeys, AdversarialIterationEvents
        batch = engine.prepare_batch(batchdata, state.device, engine.non_blocking, **engine.to_kwargs)
        inputs, targets, args, kwargs = batch if len(batch) == 4 else (*batch, (), {})
        output: dict[str, Any] = {CommonKeys.IMAGE: inputs, CommonKeys.LABEL: targets}
        state.output = output

        state.g_network.train()
        state.d_network.train()
        state.g_optimizer.zero_grad(set_to_none=engine.optim_set_to_none)
        state.d_network.requires_grad_(False)  # it propagates the gradient only
        with self._precision(engine):
            output[CommonKeys.PRED] = engine.g_inferer(inputs, state.g_network, *args, **kwargs)
            output[keys.FAKES], output[keys.REALS] = self.maps(output[CommonKeys.PRED], targets)
            engine.fire_event(events.GENERATOR_FORWARD_COMPLETED)
            output[keys.FAKE_LOGITS] = engine.d_inferer(output[keys.FAKES], state.d_network)
            engine.fire_event(events.GENERATOR_DISCRIMINATOR_FORWARD_COMPLETED)
            output[keys.RECONSTRUCTION_LOSS] = state.recon_loss_function(output[CommonKeys.PRED], targets).mean()
            engine.fire_event(events.RECONSTRUCTION_LOSS_COMPLETED)
            output[keys.GENERATOR_LOSS] = state.g_loss_function(output[keys.FAKE_LOGITS]).mean()
            engine.fire_event(events.GENERATOR_LOSS_COMPLETED)
        output[CommonKeys.LOSS] = output[keys.RECONSTRUCTION_LOSS] + output[keys.GENERATOR_LOSS]
        self._backward(output[CommonKeys.LOSS], state.g_scaler)
        engine.fire_event(events.GENERATOR_BACKWARD_COMPLETED)
        self._update(state.g_optimizer, state.g_scaler)
        engine.fire_event(events.GENERATOR_MODEL_COMPLETED)

        state.d_network.requires_grad_(True)
        state.d_optimizer.zero_grad(set_to_none=engine.optim_set_to_none)
        with self._precision(engine):
            output[keys.REAL_LOGITS] = engine.d_inferer(output[keys.REALS], state.d_network)
            engine.fire_event(events.DISCRIMINATOR_REALS_FORWARD_COMPLETED)
            output[keys.FAKE_LOGITS] = engine.d_inferer(output[keys.FAKES].detach(), state.d_network)
            engine.fire_event(events.DISCRIMINATOR_FAKES_FORWARD_COMPLETED)
            output[keys.DISCRIMINATOR_LOSS] = state.d_loss_function(output[keys.REAL_LOGITS], output[keys.FAKE_LOGITS]).mean()
            engine.fire_event(events.DISCRIMINATOR_LOSS_COMPLETED)
        self._backward(output[keys.DISCRIMINATOR_LOSS], state.d_scaler)
        engine.fire_event(events.DISCRIMINATOR_BACKWARD_COMPLETED)
        self._update(state.d_optimizer, state.d_scaler)

        engine.fire_event(IterationEvents.MODEL_COMPLETED)
        return state.output  # decollated by then

    @staticmethod
    def _precision(engine: Any) -> contextlib.AbstractContextManager:
        return torch.autocast("cuda", **engine.amp_kwargs) if engine.amp else contextlib.nullcontext()

    @staticmethod
    def _backward(loss: torch.Tensor, scaler: Any) -> None:
        (loss if scaler is None else scaler.scale(loss)).backward()

    @staticmethod
    def _update(optimizer: torch.optim.Optimizer, scaler: Any) -> None:
        if scaler is None:
            optimizer.step()
        else:
            scaler.step(optimizer)
            scaler.update()
