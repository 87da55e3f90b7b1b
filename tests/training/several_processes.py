# SPDX-License-Identifier: Apache-2.0
"""Script of two processes for test_distributed.py: results of half a batch each against those of the global batch."""

from __future__ import annotations

import copy
from types import SimpleNamespace

import torch
import torch.distributed as dist
from monai.losses import DiceCELoss
from monai.metrics import DiceMetric
from scripts.networks import MSFFNet
from scripts.training.distillation import DistillationLoss
from scripts.training.distributed.processes import rank, shard, world_size
from scripts.training.distributed.synchronous import BroadcastBuffers, CpuSyncBatchNorm, GlobalBatchLoss, distributed
from scripts.training.ignore_index_loss import IgnoreIndexLoss
from scripts.training.output_loss import OutputLoss
from torch import nn


def report(name: str, worst: float) -> None:
    """Print name, rank and largest difference."""
    print(f"{name} {rank()} {worst:.3e}\n", end="", flush=True)


def difference(one: torch.Tensor, other: torch.Tensor) -> float:
    return float((one.detach() - other.detach()).abs().max())


def part(batch: torch.Tensor) -> torch.Tensor:
    return batch.chunk(world_size())[rank()]


def normalisation(kind: type[nn.Module], dims: int, **options) -> None:
    """Output, gradients and running statistics of the halves against the plain layer with the global batch."""
    whole = kind(3, dtype=torch.float64, **options)
    half_norm = CpuSyncBatchNorm.convert(copy.deepcopy(whole))
    assert list(half_norm.state_dict()) == list(whole.state_dict())
    for _ in range(2):
        half_norm.zero_grad()
        whole.zero_grad()
        x = torch.randn(4, 3, *[5] * dims, dtype=torch.float64) * 3 + 100
        weight = torch.randn_like(x)
        one, half = x.clone().requires_grad_(), part(x).clone().requires_grad_()
        out, half_out = whole(one), half_norm(half)
        (out * weight).sum().backward()
        (half_out * part(weight)).sum().backward()
        worst = [difference(part(out), half_out), difference(part(one.grad), half.grad)]
        for parameter in half_norm.parameters():
            dist.all_reduce(parameter.grad)
        worst += [difference(a.grad, b.grad) for a, b in zip(whole.parameters(), half_norm.parameters(), strict=True)]
        worst += [difference(a.double(), b.double()) for a, b in zip(whole.buffers(), half_norm.buffers(), strict=True)]
    half_norm.eval(), whole.eval()
    report("normalisation", max(*worst, difference(whole(x), half_norm(x))))


def step() -> None:
    """Loss and gradients of a network with batch normalisation and a Dice loss over the batch."""
    network = MSFFNet(spatial_dims=2, in_channels=1, out_channels=2, features=[4] * 5, fusion_channels=8).double()
    whole = copy.deepcopy(network)
    x, y = torch.rand(4, 1, 32, 32, dtype=torch.float64), (torch.rand(4, 1, 32, 32) > 0.7).double()
    y[0], y[2, :, :9] = 0, 255
    loss = IgnoreIndexLoss(DiceCELoss(include_background=False, to_onehot_y=True, softmax=True, batch=True))
    wrapped = distributed(network)
    one, half = loss(whole(x), y), GlobalBatchLoss(loss)(wrapped(part(x)), part(y))
    one.backward()
    half.backward()
    pairs = list(zip(whole.parameters(), network.parameters(), strict=True))
    report("step", max(difference(one, half), *(difference(a.grad, b.grad) for a, b in pairs)))
    assert max(float(a.grad.abs().max()) for a, _ in pairs) > 1e-3


def distillation() -> None:
    """Loss against labels and a teacher, whose predictions are those of the global batch."""
    network, teacher = (
        MSFFNet(spatial_dims=2, auxiliary_outputs=["vertebra"], features=[4] * 5, fusion_channels=8).double() for _ in range(2)
    )
    whole = copy.deepcopy(network)
    x, codes = torch.rand(4, 1, 32, 32, dtype=torch.float64), torch.randint(0, 9, (4, 1, 32, 32)).double()
    labels = OutputLoss(IgnoreIndexLoss(DiceCELoss(include_background=False, to_onehot_y=True, softmax=True, batch=True)))
    expected, loss = (DistillationLoss(labels, teacher.eval()) for _ in range(2))
    expected._logits = teacher(x).detach()
    loss._predict(SimpleNamespace(state=SimpleNamespace(output={"image": part(x)})))
    wrapped = distributed(network)
    one, half = expected(whole(x), codes), GlobalBatchLoss(loss)(wrapped(part(x)), part(codes))
    one.backward()
    half.backward()
    pairs = zip(whole.parameters(), network.parameters(), strict=True)
    # The targets of the codes are float32.
    report("distillation", max(difference(one, half), *(difference(a.grad, b.grad) for a, b in pairs)))


def metrics() -> None:
    """Mean over 1 to 3 cases, shared unequally, also with fewer cases than processes."""
    cases = [(torch.rand(1, 2, 8, 8) > 0.5, torch.rand(1, 2, 8, 8) > 0.5) for _ in range(3)]
    for count in (1, 2, 3):
        whole, shared = (DiceMetric(include_background=False) for _ in range(2))
        for prediction, label in cases[:count]:
            assert whole._compute_tensor(prediction, label).numel() == 1
        for prediction, label in shard(cases[:count]):
            shared(prediction, label)
        expected = torch.stack([whole._compute_tensor(p, y).squeeze() for p, y in cases[:count]]).mean()
        report("metrics", difference(expected, shared.aggregate()))


def buffers() -> None:
    """Buffers of every process become those of the first."""
    layer = nn.BatchNorm2d(2)
    layer.running_mean.fill_(float(rank() + 1))
    BroadcastBuffers(layer)._broadcast(None)
    report("buffers", difference(layer.running_mean, torch.ones(2)))


if __name__ == "__main__":
    dist.init_process_group("gloo")
    torch.manual_seed(0)
    normalisation(nn.BatchNorm1d, 1)
    normalisation(nn.BatchNorm2d, 2, momentum=None)
    normalisation(nn.BatchNorm3d, 3, affine=False)
    step()
    distillation()
    metrics()
    buffers()
    dist.destroy_process_group()
