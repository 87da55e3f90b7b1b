# SPDX-License-Identifier: Apache-2.0
"""Steps of several processes that are one step of one process with the whole batch: gradients, loss and batch normalisation."""

from __future__ import annotations

import inspect
from typing import Any

import torch
import torch.distributed as dist
from ignite.engine import Engine, Events
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from .processes import rank, world_size


class _Gathered(torch.autograd.Function):
    """Concatenate the equally shaped tensors of all processes; the gradient is that of the sum of all processes' losses.

    Every process computes the same loss from the same tensors, so the gradients of the others need no sending: they are equal.
    """

    @staticmethod
    def forward(ctx: Any, tensor: torch.Tensor) -> torch.Tensor:
        parts = [torch.empty_like(tensor, memory_format=torch.contiguous_format) for _ in range(world_size())]
        dist.all_gather(parts, tensor.contiguous())
        ctx.size = len(tensor)
        return torch.cat(parts)

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> torch.Tensor:  # type: ignore[override]
        own = gradient[rank() * ctx.size : (rank() + 1) * ctx.size]
        return own * world_size()  # DistributedDataParallel divides by it


class _Normalised(torch.autograd.Function):
    """Scale a tensor (B, C, *size) to mean 0 and variance 1 per channel over all processes; mean and variance come with it."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, eps: float) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
        axes, shape = _channels(x)
        local = x.mean(axes)
        scaled = x - local.view(shape)
        variance = scaled.square().mean(axes)  # torch.var_mean takes three times as long on a CPU
        own = torch.stack([local, variance, torch.full_like(local, x.numel() // x.shape[1])])
        parts = [torch.empty_like(own) for _ in range(world_size())]
        dist.all_gather(parts, own)
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
    """Axes of a tensor (B, C, *size) besides the channels, and the shape that a value per channel takes beside it."""
    return [axis for axis in range(x.dim()) if axis != 1], [1, -1] + [1] * (x.dim() - 2)


class GlobalBatchLoss(nn.Module):
    """Loss of the batches of all processes together, the same value in each of them.

    A Dice over the batch is no mean of the Dices of its parts. Below ``DistributedDataParallel`` the gradients are those of one
    process with the whole batch.

    Args:
        loss: loss of tensors whose first axis is the batch; each has the same shape in every process.
    """

    def __init__(self, loss: nn.Module) -> None:
        super().__init__()
        self.loss = loss

    def forward(self, *tensors: torch.Tensor) -> torch.Tensor:
        """Return the loss of tensors (B, ...), such as logits (B, C, *size) and labels (B, 1, *size), of all processes."""
        if world_size() == 1:
            return self.loss(*tensors)
        return self.loss(*(_Gathered.apply(t.as_tensor() if hasattr(t, "as_tensor") else t) for t in tensors))


class CpuSyncBatchNorm(_BatchNorm):
    """Batch normalisation over the batches of all processes on CPUs, which ``torch.nn.SyncBatchNorm`` refuses."""

    def _check_input_dim(self, input: torch.Tensor) -> None:
        if input.dim() < 2:
            raise ValueError(f"CpuSyncBatchNorm: input of shape {tuple(input.shape)}; give (B, C, *size).")

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
        """Put this class in the place of every batch normalisation in ``module``, with the same parameters and buffers."""
        if isinstance(module, _BatchNorm):
            own = cls(module.num_features, module.eps, module.momentum, module.affine, module.track_running_stats)
            own._parameters, own._buffers, own.training = module._parameters, module._buffers, module.training
            return own
        for name, child in module.named_children():
            setattr(module, name, cls.convert(child))
        return module


def distributed(
    network: nn.Module, sync_batchnorm: bool = True, find_unused_parameters: bool = False
) -> nn.parallel.DistributedDataParallel:
    """Wrap a network for the training of all processes; the network itself stays what is validated and saved.

    Args:
        network: on its device already, with equal weights in every process or not: those of the first are taken.
        sync_batchnorm: normalise over the batches of all processes; changed in ``network`` itself, whose keys stay the same.
            Without it every process normalises by its own part of the batch and keeps running statistics of its own, of which
            those of the first count, see ``BroadcastBuffers``.
        find_unused_parameters: for networks of which a step does not use all weights.
    """
    device = next(network.parameters()).device
    if sync_batchnorm:
        convert = nn.SyncBatchNorm.convert_sync_batchnorm if device.type == "cuda" else CpuSyncBatchNorm.convert
        network = convert(network)
    # Statistics are equal with sync_batchnorm; without it only those of the first process are ever read.
    wrapper = nn.parallel.DistributedDataParallel
    known = inspect.signature(wrapper).parameters
    buffers = "forward_sync_buffers" if "forward_sync_buffers" in known else "broadcast_buffers"  # new in PyTorch 2.13
    return wrapper(
        network,
        device_ids=[device] if device.type == "cuda" else None,
        find_unused_parameters=find_unused_parameters,
        gradient_as_bucket_view=True,
        **{buffers: False},
    )


class BroadcastBuffers:
    """Handler of an evaluator: every process validates with the buffers of the first, which are those that are saved.

    Args:
        network: network that is validated.
    """

    def __init__(self, network: nn.Module) -> None:
        self.network = network

    def attach(self, engine: Engine) -> None:
        """Register at an evaluator."""
        engine.add_event_handler(Events.STARTED, self._equalise)

    def _equalise(self, engine: Engine) -> None:
        if world_size() > 1:
            for buffer in self.network.buffers():
                dist.broadcast(buffer, src=0)
