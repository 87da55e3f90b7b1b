# SPDX-License-Identifier: Apache-2.0
"""Steps of several processes that equal a step of one process with the global batch: gradients, loss, batch normalisation."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import Any

import torch
import torch.distributed as dist
from ignite.engine import Engine, Events
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from ...core.config_diff import running_parser
from .processes import rank, world_size

# Arguments of MONAI's trainers.
NETWORKS = ("network", "g_network", "d_network")
LOSSES = ("loss_function", "g_loss_function", "recon_loss_function")


class _Gathered(torch.autograd.Function):
    """Concatenate the equally shaped tensors of all processes; the gradient is that of the sum of all processes' losses.

    Every process computes the same loss from the same tensors, so the gradients are equal and need no communication.
    """

    @staticmethod
    def forward(ctx: Any, tensor: torch.Tensor) -> torch.Tensor:
        parts = [torch.empty_like(tensor, memory_format=torch.contiguous_format) for _ in range(world_size())]
        dist.all_gather(parts, tensor.contiguous())
        ctx.size = len(tensor)
        return torch.cat(parts)

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> torch.Tensor:  # type: ignore[override]
        local = gradient[rank() * ctx.size : (rank() + 1) * ctx.size]
        return local * world_size()  # DistributedDataParallel divides by it


class _Normalised(torch.autograd.Function):
    """Normalise a tensor (B, C, *size) to mean 0 and variance 1 per channel over all processes; also return both and the count."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, eps: float) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
        axes, shape = _channels(x)
        local = x.mean(axes)
        scaled = x - local.view(shape)
        variance = scaled.square().mean(axes)  # torch.var_mean takes three times as long on a CPU
        statistics = torch.stack([local, variance, torch.full_like(local, x.numel() // x.shape[1])])
        parts = [torch.empty_like(statistics) for _ in range(world_size())]
        dist.all_gather(parts, statistics)
        means, variances, counts = torch.stack(parts, dim=1)
        count = counts.sum(0)
        mean = (counts * means).sum(0) / count
        variance = (counts * (variances + (means - mean).square())).sum(0) / count
        inverse = (variance + eps).rsqrt()
        scaled.add_((local - mean).view(shape)).mul_(inverse.view(shape))
        ctx.save_for_backward(scaled, inverse, count)
        ctx.mark_non_differentiable(mean, variance, count)
        return scaled, mean, variance, count

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor, *others: Any) -> tuple[torch.Tensor, None]:  # type: ignore[override]
        scaled, inverse, count = ctx.saved_tensors
        axes, shape = _channels(scaled)
        sums = torch.stack([gradient.sum(axes), (gradient * scaled).sum(axes)])
        dist.all_reduce(sums)
        constant, slope = (sums / count).unbind()
        return inverse.view(shape) * (gradient - constant.view(shape) - scaled * slope.view(shape)), None


def _channels(x: torch.Tensor) -> tuple[list[int], list[int]]:
    """Axes of a tensor (B, C, *size) except the channels, and the shape that broadcasts a value per channel to it."""
    return [axis for axis in range(x.dim()) if axis != 1], [1, -1] + [1] * (x.dim() - 2)


def gathered(tensor: torch.Tensor) -> torch.Tensor:
    """Tensor of the global batch, of the equally shaped tensors (B, ...) of all processes."""
    if world_size() == 1:
        return tensor
    return _Gathered.apply(tensor.as_tensor() if hasattr(tensor, "as_tensor") else tensor)


class GlobalBatchLoss(nn.Module):
    """Loss of the global batch, the same value in every process.

    A Dice loss over a batch is not the mean over its parts. With ``DistributedDataParallel`` the gradients are those of one process
    with the global batch.

    Args:
        loss: loss of tensors whose first axis is the batch; each has the same shape in every process.
    """

    def __init__(self, loss: nn.Module) -> None:
        super().__init__()
        self.loss = loss

    def forward(self, *tensors: torch.Tensor) -> torch.Tensor:
        """Return the loss of tensors (B, ...), such as logits (B, C, *size) and labels (B, 1, *size), of all processes."""
        return self.loss(*map(gathered, tensors))


class CpuSyncBatchNorm(_BatchNorm):
    """Batch normalisation over the global batch on CPUs, which ``torch.nn.SyncBatchNorm`` does not support."""

    def _check_input_dim(self, input: torch.Tensor) -> None:
        if input.dim() < 2:
            raise ValueError(f"CpuSyncBatchNorm: input has shape {tuple(input.shape)}, expected (B, C, *size).")

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        """Return the normalised input (B, C, *size)."""
        if not self.training or world_size() == 1:
            return super().forward(input)
        self._check_input_dim(input)
        scaled, mean, variance, count = _Normalised.apply(input, self.eps)
        if self.track_running_stats and self.num_batches_tracked is not None:
            self.num_batches_tracked.add_(1)
            part = 1.0 / float(self.num_batches_tracked) if self.momentum is None else self.momentum
            self.running_mean.lerp_(mean.to(self.running_mean.dtype), part)
            self.running_var.lerp_((variance * count / (count - 1)).to(self.running_var.dtype), part)
        if not self.affine:
            return scaled
        shape = _channels(input)[1]
        return torch.addcmul(self.bias.view(shape), scaled, self.weight.view(shape))

    @classmethod
    def convert(cls, module: nn.Module) -> nn.Module:
        """Replace every batch normalisation in ``module`` by this class, with the same parameters and buffers."""
        if isinstance(module, _BatchNorm):
            norm = cls(module.num_features, module.eps, module.momentum, module.affine, module.track_running_stats)
            norm._parameters, norm._buffers, norm.training = module._parameters, module._buffers, module.training
            return norm
        for name, child in module.named_children():
            setattr(module, name, cls.convert(child))
        return module


def distributed(
    network: nn.Module, sync_batchnorm: bool = True, find_unused_parameters: bool = False
) -> nn.parallel.DistributedDataParallel:
    """Wrap a network in ``DistributedDataParallel``; the network itself is validated and saved.

    Args:
        network: network on its device; the weights of the first process are broadcast.
        sync_batchnorm: normalise over the global batch; changes ``network`` in place, whose keys stay the same. Without it, every
            process normalises its part of the batch and has running statistics of its own, of which those of the first are used,
            see ``BroadcastBuffers``.
        find_unused_parameters: True for networks with parameters that a step does not use.
    """
    device = next(network.parameters()).device
    if sync_batchnorm:
        convert = nn.SyncBatchNorm.convert_sync_batchnorm if device.type == "cuda" else CpuSyncBatchNorm.convert
        network = convert(network)
    # Statistics are equal with sync_batchnorm; without it only those of the first process are read.
    wrapper = nn.parallel.DistributedDataParallel
    arguments = inspect.signature(wrapper).parameters
    buffers = "forward_sync_buffers" if "forward_sync_buffers" in arguments else "broadcast_buffers"  # new in PyTorch 2.13
    return wrapper(
        network,
        device_ids=[device] if device.type == "cuda" else None,
        find_unused_parameters=find_unused_parameters,
        gradient_as_bucket_view=True,
        **{buffers: False},
    )


def distribute_trainer(sync_batchnorm: bool = True, find_unused_parameters: bool = False) -> None:
    """Wrap networks and losses of ``train::trainer`` in the config whose resolution called this function.

    Every network is wrapped by ``distributed``, every loss of predictions by ``GlobalBatchLoss``, so that overlays with other
    networks and losses need no counterpart for several processes.

    Args:
        sync_batchnorm: see ``distributed``, as the following one.
        find_unused_parameters: True for networks with parameters that a step does not use.
    """
    parser = running_parser()
    if parser is None:
        return
    trainer = dict(parser["train::trainer"])
    options = {"sync_batchnorm": sync_batchnorm, "find_unused_parameters": find_unused_parameters}
    wrappers: dict[str, tuple[str, str, dict]] = {
        **{name: ("network", f"{__name__}.distributed", options) for name in NETWORKS},
        **{name: ("loss", f"{__name__}.GlobalBatchLoss", {}) for name in LOSSES},
    }
    for name, (argument, target, more) in wrappers.items():
        content = trainer.get(name)
        if content is not None and not (isinstance(content, Mapping) and content.get("_target_") == target):
            trainer[name] = {"_target_": target, argument: content, **more}
    if trainer != parser["train::trainer"]:
        parser["train::trainer"] = trainer


class BroadcastBuffers:
    """Handler of an evaluator by which every process validates with the buffers of the first, which are saved.

    Args:
        network: network that is validated.
    """

    def __init__(self, network: nn.Module) -> None:
        self.network = network

    def attach(self, engine: Engine) -> None:
        """Register at an evaluator."""
        engine.add_event_handler(Events.STARTED, self._broadcast)

    def _broadcast(self, engine: Engine) -> None:
        if world_size() > 1:
            for buffer in self.network.buffers():
                dist.broadcast(buffer, src=0)
