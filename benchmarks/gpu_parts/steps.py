# SPDX-License-Identifier: Apache-2.0
"""Training steps of the configs: network, loss, optimizer and randomisation as `train.yaml` builds them, on a synthetic batch."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Sequence
from typing import Any

import torch
from monai.bundle import ConfigParser
from scripts.training.augment import SEED
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from .settings import BUNDLE, Settings
from .timing import PhaseClock

CONFIGS = ("train.yaml", "vertebra_loss.yaml", "vertebrae.yaml", "randomisation.yaml", "shipped.yaml")
FULL_WIDTH = "network/full_width.yaml"
SMALL = {
    "network_def::features": [4, 8, 8, 16, 16], "patch_size": [32, 48], "canvas": [40, 56], "batch_size": 2,
}  # fmt: skip


def training_config(settings: Settings, overlays: Sequence[str] = ()) -> ConfigParser:
    """MONAI's parser of the training of the shipped weights, small on a CPU."""
    parser = ConfigParser()
    parser.read_config([str(BUNDLE / "configs" / name) for name in (*CONFIGS, *overlays)])
    parser.read_meta(str(BUNDLE / "configs" / "metadata.json"))
    parser["bundle_root"] = str(BUNDLE)
    parser["device"] = f"$torch.device('{settings.device}')"
    parser["amp"] = settings.cuda
    if not settings.cuda:
        values = {k: v for k, v in SMALL.items() if not (overlays and "features" in k)}
        if overlays:
            values["network_def::features"] = [8, 8, 16, 16, 32]
        for key, value in values.items():
            parser[key] = value
    return parser


def synthetic_batch(count: int, channels: int, canvas: Sequence[int], seed: int = 0, pin: bool = False) -> dict[str, torch.Tensor]:
    """Batch as from the data loader with randomisation.yaml: smooth images scaled by the HU window, codes and seeds.

    Args:
        count: slices.
        channels: neighbouring slices.
        canvas: voxels.
        seed: seed of all random numbers.
        pin: in pinned memory.
    """
    generator = torch.Generator().manual_seed(seed)
    coarse = torch.rand(count, channels, *(n // 8 for n in canvas), generator=generator)
    image = nn.functional.interpolate(coarse, size=tuple(canvas), mode="bilinear") - 0.1
    codes = torch.randint(0, 10, (count, 1, *(n // 8 for n in canvas)), generator=generator).float()
    label = nn.functional.interpolate(codes, size=tuple(canvas), mode="nearest")
    batch = {"image": image.contiguous(), "label": label.contiguous()}
    batch[SEED] = torch.randint(0, 2**31 - 1, (count,), generator=generator)
    return {k: v.pin_memory() for k, v in batch.items()} if pin else batch


class Training:
    """Network, loss, optimizer, randomisation and batch of a training.

    Args:
        settings: settings of the part.
        overlays: configs besides those of the shipped weights.
        dtype: dtype of autocast; None for float32.
        capturable: an optimizer whose step a CUDA graph can hold.
    """

    def __init__(
        self, settings: Settings, overlays: Sequence[str] = (), dtype: torch.dtype | None = None, capturable: bool = False
    ) -> None:
        torch.manual_seed(0)
        parser = training_config(settings, overlays)
        if capturable:
            parser["optimizer::capturable"] = True
        self.device, self.dtype, self.parser = settings.device, dtype, parser
        self.network: nn.Module = parser.get_parsed_content("network").train()
        self.loss: nn.Module = parser.get_parsed_content("vertebra_loss").to(settings.device)
        self.optimizer: torch.optim.Optimizer = parser.get_parsed_content("optimizer")
        self.prepare: Callable = parser.get_parsed_content("train::trainer::prepare_batch")
        self.max_norm = float(parser.get_parsed_content("max_gradient_norm"))
        channels = parser.get_parsed_content("network_def::in_channels")
        self.batch_size = int(parser.get_parsed_content("batch_size"))
        canvas = parser.get_parsed_content("canvas")
        self.batch = synthetic_batch(self.batch_size, channels, canvas, pin=settings.cuda)
        image, label = self.prepare(self.batch, settings.device)
        self.image = image.contiguous(memory_format=torch.channels_last)
        self.label = label
        self.forward: Callable[[torch.Tensor], torch.Tensor] = self.network
        self.clock: PhaseClock | None = None

    def autocast(self) -> Any:
        """Mixed precision of the forward pass; without a cache, which a CUDA graph cannot hold."""
        if self.dtype is None:
            return contextlib.nullcontext()
        return torch.autocast(torch.device(self.device).type, dtype=self.dtype, cache_enabled=False)

    def _mark(self, phase: str) -> None:
        if self.clock is not None:
            self.clock.mark(phase)

    def step(self) -> torch.Tensor:
        """One step on the batch on the device: forward, loss, backward, clipping, optimizer; the loss."""
        self.optimizer.zero_grad(set_to_none=True)
        with self.autocast():
            logits = self.forward(self.image)
            self._mark("forward")
            loss = self.loss(logits, self.label)
        self._mark("loss")
        loss.backward()
        self._mark("backward")
        nn.utils.clip_grad_norm_(self.network.parameters(), self.max_norm)
        self._mark("clipping")
        self.optimizer.step()
        self._mark("optimizer")
        return loss.detach()

    def randomise(self) -> None:
        """Move the batch of the data loader to the device and randomise it there."""
        image, label = self.prepare(self.batch, self.device, non_blocking=True)
        self.image.copy_(image)
        self.label.copy_(label)
        self._mark("randomisation, with the copy to the device")

    def randomised_step(self) -> torch.Tensor:
        """One step with randomisation before it."""
        if self.clock is not None:
            self.clock.mark("")
        self.randomise()
        return self.step()

    def operations(self) -> float:
        """Floating-point operations of the forward and backward pass of the batch."""
        with FlopCounterMode(display=False) as counter:
            self.network(self.image[:2]).sum().backward()
        self.optimizer.zero_grad(set_to_none=True)
        return counter.get_total_flops() / len(self.image[:2]) * self.batch_size

    def graphed(self, warm_up: int = 3) -> Callable[[], torch.Tensor]:
        """Capture ``step`` in a CUDA graph and return its replay.

        Raises:
            RuntimeError: when an operation of the step cannot be captured.
        """
        side = torch.cuda.Stream()
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):
            for _ in range(warm_up):
                self.step()
        torch.cuda.current_stream().wait_stream(side)
        graph = torch.cuda.CUDAGraph()
        self.optimizer.zero_grad(set_to_none=True)
        with torch.cuda.graph(graph, stream=side):
            loss = self.step()

        def replay() -> torch.Tensor:
            graph.replay()
            return loss

        return replay
