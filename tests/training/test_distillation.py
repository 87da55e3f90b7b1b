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
from scripts.training.distillation import DistillationLoss, teacher_of
from scripts.training.ignore_index_loss import IgnoreIndexLoss
from scripts.training.output_loss import OutputLoss
from scripts.training.output_targets import IGNORED, UNKNOWN_STATE, code_of
from test_resume import same, workflow

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


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"outputs": ["discs"]}, "'discs' must be one of fracture, vertebra, body"),
        ({"outputs": []}, "must name an output, or leave out configs/distillation"),
        ({"weight": 0}, "distillation_weight=0: must be greater than 0"),
    ],
)
def test_bad_arguments_are_refused(arguments, message):
    with pytest.raises(InputError, match=message):
        DistillationLoss(LABELS, network(), **arguments)


def test_missing_outputs_and_initial_weights_are_refused():
    with pytest.raises(InputError, match="no output 'body'"):
        DistillationLoss(LABELS, network(), ["body"]).divergence(*torch.zeros(2, 1, 2, 4, 4), torch.ones(1, 1, 4, 4))
    with pytest.raises(InputError, match=r"init_checkpoint=None: distillation needs initial weights; give --init_checkpoint FILE"):
        teacher_of(network(), None)
    with pytest.raises(RuntimeError, match="handler of the trainer"):
        DistillationLoss(LABELS, network())(torch.zeros(1, 4, 4, 4), torch.ones(1, 1, 4, 4))


def test_the_teacher_is_a_frozen_copy():
    net = network()
    teacher = teacher_of(net, "model.pt")
    image = torch.rand(1, 1, 32, 32)
    before = teacher(image)
    torch.nn.init.zeros_(net.decoder.head.weight)
    assert torch.equal(teacher(image), before)
    assert not any(p.requires_grad for p in teacher.parameters())
    assert not teacher.training


def without_fractures(source: Path, out: Path) -> Path:
    """Copy of a data set whose labels have the ignore index in all vertebrae."""
    shutil.copytree(source, out)
    for path in (out / "labels").glob("*.nii.gz"):
        vertebrae = nib.load(out / "vertebrae" / path.name)
        label = np.where(np.asarray(vertebrae.dataobj) > 0, IGNORED, 0).astype(np.uint8)
        nib.save(nib.Nifti1Image(label, vertebrae.affine), path)
    return out


def test_masks_without_grades_do_not_change_fractures(bundle, phantom_set, tmp_path):
    overlays = ("vertebra_loss.yaml", "vertebrae.yaml")
    start = tmp_path / "start.pt"
    first = workflow(bundle, phantom_set, tmp_path / "first", overlays)
    first.run()
    torch.save(first.parser.get_parsed_content("network_def").state_dict(), start)
    data = without_fractures(phantom_set, tmp_path / "masks")
    image = torch.rand(4, 5, 32, 32, generator=torch.Generator().manual_seed(0))
    fractures = {}
    for name, extra in (("kept", ("distillation.yaml",)), ("free", ())):
        settings = {"init_checkpoint": str(start), "require_improvement": False, "distillation_weight": 100.0, "epochs": 6}
        settings = {k: v for k, v in settings.items() if extra or k != "distillation_weight"}
        work = workflow(bundle, data, tmp_path / name, (*overlays, *extra), **settings)
        before = work.parser.get_parsed_content("network").eval()
        work.parser.get_parsed_content("init_weights")
        expected = before(image)[:, :2].softmax(1)[:, 1].detach()
        work.run()
        after = work.parser.get_parsed_content("network").eval()
        fractures[name] = (after(image)[:, :2].softmax(1)[:, 1] - expected).abs().mean().item()
    assert 0 < fractures["kept"] < 0.5 * fractures["free"]


def test_a_resumed_distillation_has_the_same_weights(bundle, phantom_set, tmp_path):
    overlays = ("vertebra_loss.yaml", "vertebrae.yaml", "distillation.yaml")
    start = tmp_path / "start.pt"
    base = workflow(bundle, phantom_set, tmp_path / "base", overlays[:2])
    torch.save(base.parser.get_parsed_content("network_def").state_dict(), start)

    def train(out: Path, stop_in: int | None = None) -> dict[str, torch.Tensor]:
        work = workflow(bundle, phantom_set, out, overlays, init_checkpoint=str(start), require_improvement=False)
        if stop_in is None:
            work.run()
        else:

            def cut(engine):
                if engine.state.epoch == stop_in:
                    raise KeyboardInterrupt

            work.parser.get_parsed_content("train::trainer").add_event_handler(Events.ITERATION_COMPLETED, cut)
            with pytest.raises(BaseException):  # noqa: B017
                work.run()
        return {k: v.clone() for k, v in work.parser.get_parsed_content("network").state_dict().items()}

    whole = train(tmp_path / "whole")
    train(tmp_path / "cut", stop_in=2)
    assert same(train(tmp_path / "cut"), whole)
