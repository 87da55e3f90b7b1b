# SPDX-License-Identifier: Apache-2.0
"""Distillation: the divergence by hand, gradients, bad arguments, and trainings whose labels have no fractures."""

from __future__ import annotations

import shutil
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch
from ignite.engine import Events
from monai.losses import DiceCELoss
from scripts.core.errors import InputError
from scripts.networks import MSFFNet
from scripts.networks.outputs import FRACTURE
from scripts.networks.weights_description import description_of
from scripts.training.distillation import DistillationLoss, teacher_of
from scripts.training.ignore_index_loss import IgnoreIndexLoss
from scripts.training.output_loss import OutputLoss
from scripts.training.output_targets import (
    BODY_PART,
    FRACTURED,
    IGNORED,
    INTACT,
    POSTERIOR,
    UNKNOWN_PART,
    UNKNOWN_STATE,
    code_of,
)  # fmt: skip
from scripts.training.precision import CpuBfloat16
from test_resume import same, workflow

OVERLAYS = ("vertebra_loss.yaml", "vertebrae.yaml")
LABELS = OutputLoss(IgnoreIndexLoss(DiceCELoss(include_background=False, to_onehot_y=True, softmax=True, batch=True), classes=2))


def network() -> MSFFNet:
    torch.manual_seed(0)
    arguments = {"features": (4, 4, 8, 8, 8), "fusion_channels": 8, "aspp_rates": (1, 2)}
    return MSFFNet(spatial_dims=2, auxiliary_outputs=["vertebra", "body"], **arguments)


def codes() -> torch.Tensor:
    """Codes (2, 1, 8, 8): vertebrae without a label of fracture in one half, background and the ignore index in the other."""
    result = torch.zeros(2, 1, 8, 8)
    result[..., :4] = code_of(UNKNOWN_STATE, 0)
    result[..., 6:] = IGNORED
    return result


def test_the_divergence_is_that_of_two_bernoulli_distributions():
    loss = DistillationLoss(LABELS, network(), ["fracture", "body"])
    student, teacher = (torch.randn(2, 4, 8, 8, generator=torch.Generator().manual_seed(k)) for k in (1, 2))
    expected = []
    for name in ("fracture", "body"):
        p, q = ((x[:, :2].softmax(1)[:, 1] if name == "fracture" else x[:, 3].sigmoid())[..., :4] for x in (teacher, student))
        pairs = (torch.distributions.Bernoulli(probs=v) for v in (p, q))
        expected.append(torch.distributions.kl_divergence(*pairs).mean())
    assert torch.allclose(loss.divergence(student, teacher, codes()), torch.stack(expected).mean(), atol=1e-5)
    assert torch.allclose(loss.divergence(teacher, teacher, codes()), torch.zeros(()), atol=1e-6)
    assert loss.divergence(student, teacher, torch.full((2, 1, 8, 8), float(IGNORED))) == 0


def test_only_distilled_outputs_in_vertebrae_have_gradients():
    student = torch.randn(2, 4, 8, 8, generator=torch.Generator().manual_seed(1)).requires_grad_()
    loss = DistillationLoss(LABELS, network(), weight=2.0)
    loss.divergence(student, torch.zeros(2, 4, 8, 8), codes()).backward()
    given = student.grad.abs().sum((0, 2))
    assert (given[: FRACTURE + 1, :4] > 0).all()
    assert given[FRACTURE + 1 :].sum() == 0
    assert given[:, 4:].sum() == 0


def test_unlabelled_vertebrae_alone_can_be_distilled():
    """Gradients of an output where its label is unknown, whatever is known of the other one."""
    target = codes()
    target[0, 0, 0, :4] = code_of(INTACT, UNKNOWN_PART)
    target[1, 0, 0, :4] = code_of(UNKNOWN_STATE, BODY_PART)
    target[:, 0, 1, :4] = code_of(FRACTURED, POSTERIOR)
    student = torch.randn(2, 4, 8, 8, generator=torch.Generator().manual_seed(1)).requires_grad_()
    teacher = torch.zeros(2, 4, 8, 8)
    loss = DistillationLoss(LABELS, network(), ["fracture", "body"], where="unlabelled")
    loss.divergence(student, teacher, target).backward()
    given = student.grad.abs() > 0
    unknown = {FRACTURE: target >= code_of(UNKNOWN_STATE, POSTERIOR), 3: target == code_of(INTACT, UNKNOWN_PART)}
    unknown[FRACTURE] &= target != IGNORED
    unknown[3] |= target == code_of(UNKNOWN_STATE, UNKNOWN_PART)
    for channel, expected in unknown.items():
        assert torch.equal(given[:, channel : channel + 1], expected)
    assert unknown[FRACTURE].any()
    assert unknown[3].any()
    assert loss.divergence(student, teacher, torch.full_like(target, code_of(FRACTURED, BODY_PART))) == 0


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_counts_the_voxels_of_large_batches(dtype):
    target = torch.full((4, 1, 256, 256), float(code_of(UNKNOWN_STATE, 0)))  # more voxels than float16 has numbers
    student, teacher = (torch.full((4, 4, 256, 256), value) for value in (1.0, -1.0))
    student[:, 0], teacher[:, 0] = 0, 0
    loss = DistillationLoss(LABELS, network())
    expected = loss.divergence(student, teacher, target)
    assert expected > 0.1
    assert torch.allclose(loss.divergence(student.to(dtype), teacher.to(dtype), target), expected, rtol=1e-3)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"outputs": ["discs"]}, "'discs' must be one of fracture, vertebra, body"),
        ({"outputs": []}, "must name an output, or leave out configs/distillation"),
        ({"weight": 0}, "distillation_weight=0: must be greater than 0"),
        ({"where": "unlabelled", "outputs": ["fracture", "vertebra"]}, "the label of 'vertebra' is never unknown; leave it out"),
        ({"where": "background"}, "distilled_where=background: must be vertebrae or unlabelled"),
    ],
)
def test_bad_arguments_are_refused(arguments, message):
    with pytest.raises(InputError, match=message):
        DistillationLoss(LABELS, network(), **arguments)


def test_missing_outputs_and_initial_weights_are_refused(tmp_path):
    with pytest.raises(InputError, match="init_checkpoint=None: distillation needs initial weights"):
        teacher_of(network(), None, "fracture")
    torch.save({"decoder.head.weight": torch.zeros(3, 4, 1, 1)}, tmp_path / "old.pt")
    with pytest.raises(
        InputError, match=r"distilled_outputs=\['body'\]: .*old\.pt has no output 'body'; its outputs are fracture, vertebra"
    ):
        teacher_of(network(), str(tmp_path / "old.pt"), ["body"])
    with pytest.raises(RuntimeError, match=r"handler of the trainer, as in configs/distillation\.yaml"):
        DistillationLoss(LABELS, network())(torch.zeros(1, 4, 4, 4), torch.ones(1, 1, 4, 4))


def test_the_teacher_is_a_frozen_copy_of_equal_precision():
    net, image = network(), torch.rand(1, 1, 32, 32)
    teacher, low = (teacher_of(net, "model.pt", "fracture", trained=trained) for trained in (net, CpuBfloat16(net)))
    before = teacher(image)
    assert torch.equal(before, network().eval()(image))
    assert not torch.equal(low(image), before)
    assert torch.allclose(low(image), before, atol=0.1)
    torch.nn.init.zeros_(net.decoder.head.weight)
    assert torch.equal(teacher(image), before)
    for copy in (teacher, low):
        assert not any(p.requires_grad for p in copy.parameters())
        assert not any(m.training for m in copy.modules())


def without_fractures(source: Path, out: Path) -> Path:
    """Copy of a data set whose labels have the ignore index in all vertebrae."""
    shutil.copytree(source, out)
    for path in (out / "labels").glob("*.nii.gz"):
        vertebrae = nib.load(out / "vertebrae" / path.name)
        label = np.where(np.asarray(vertebrae.dataobj) > 0, IGNORED, 0).astype(np.uint8)
        nib.save(nib.Nifti1Image(label, vertebrae.affine), path)
    return out


@pytest.fixture(scope="module")
def start(bundle, phantom_set, tmp_path_factory) -> Path:
    """Weights of a short training with all outputs."""
    out = tmp_path_factory.mktemp("start")
    workflow(bundle, phantom_set, out, OVERLAYS).run()
    return out / "model.pt"


def distilling(bundle: Path, data: Path, out: Path, start: Path, overlays: tuple[str, ...] = ("distillation.yaml",), **more):
    """Training from the weights ``start`` without validation."""
    settings = {"init_checkpoint": str(start), "require_improvement": False, "val_interval": 100, **more}
    return workflow(bundle, data, out, (*OVERLAYS, *overlays), **settings)


def weights_of(work) -> dict[str, torch.Tensor]:
    return {k: v.clone() for k, v in work.parser.get_parsed_content("network").state_dict().items()}


def test_masks_without_grades_do_not_change_fractures(bundle, phantom_set, start, tmp_path):
    data = without_fractures(phantom_set, tmp_path / "masks")
    image = torch.rand(4, 5, 32, 32, generator=torch.Generator().manual_seed(0))
    moved = {}
    for name, overlays, more in (("kept", ("distillation.yaml",), {"distillation_weight": 100.0}), ("free", (), {})):
        work = distilling(bundle, data, tmp_path / name, start, overlays, **more)
        net = work.parser.get_parsed_content("network")
        work.parser.get_parsed_content("init_weights")
        expected = net.eval()(image)[:, :2].softmax(1)[:, 1].detach()
        work.run()
        moved[name] = (net.eval()(image)[:, :2].softmax(1)[:, 1] - expected).abs().mean().item()
    assert 0 < moved["kept"] < 0.5 * moved["free"]
    (written,) = (tmp_path / "kept").rglob("last.pt")
    assert description_of(torch.load(written, weights_only=True), "last.pt").recipe["distillation_loss"] is True


def test_a_resumed_distillation_has_the_same_weights(bundle, phantom_set, start, tmp_path):
    """Also when the file of the initial weights has changed."""
    whole = distilling(bundle, phantom_set, tmp_path / "whole", start, ("finetune.yaml", "distillation.yaml"), epochs=3)
    whole.run()
    copied = tmp_path / "start.pt"
    shutil.copyfile(start, copied)
    cut = distilling(bundle, phantom_set, tmp_path / "cut", copied, ("finetune.yaml", "distillation.yaml"), epochs=3)

    def interrupt(engine) -> None:
        if engine.state.epoch == 2:
            raise KeyboardInterrupt

    cut.parser.get_parsed_content("train::trainer").add_event_handler(Events.ITERATION_COMPLETED, interrupt)
    with pytest.raises(BaseException):  # noqa: B017
        cut.run()
    state = torch.load(copied, weights_only=True)
    for value in state.values():  # the description of the weights is kept
        value.add_(1)
    torch.save(state, copied)
    again = distilling(bundle, phantom_set, tmp_path / "cut", copied, ("finetune.yaml", "distillation.yaml"), epochs=3)
    again.run()
    assert same(weights_of(again), weights_of(whole))
