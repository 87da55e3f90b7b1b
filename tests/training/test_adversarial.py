# SPDX-License-Identifier: Apache-2.0
"""Adversarial training: losses, gradients, ignored voxels, and Spine-GAN through ``monai.bundle``."""

from __future__ import annotations

import copy
import csv
import json
import math
from pathlib import Path
from unittest import mock

import nibabel as nib
import pytest
import torch
from ignite.engine import Events
from monai.bundle import ConfigWorkflow
from monai.engines import AdversarialTrainer, SupervisedTrainer
from monai.handlers import TensorBoardStatsHandler, from_engine
from monai.losses import DiceCELoss
from scripts.networks.baselines import SpineGANDiscriminator, SpineGANSegmenter
from scripts.training.adversarial import DiscriminatorLoss, GeneratorLoss, SegmentationStep
from scripts.training.ignore_index_loss import IgnoreIndexLoss
from torch import nn
from torch.utils.data import DataLoader

LOSS = IgnoreIndexLoss(DiceCELoss(include_background=False, to_onehot_y=True, softmax=True, batch=True))


@pytest.fixture(autouse=True)
def one_thread():
    """One thread: with two, steps this small are forty times slower on a busy machine."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


class Fixed(nn.Module):
    """A "network" whose logits are its only parameter."""

    def __init__(self, logits: torch.Tensor) -> None:
        super().__init__()
        self.logits = nn.Parameter(logits.clone())

    def forward(self, x):
        return self.logits + 0 * x


def labels(number: int = 4, size: int = 64) -> torch.Tensor:
    torch.manual_seed(0)
    out = torch.zeros(number, 1, size, size)
    for i in range(number):
        out[i, :, 8 + 4 * i : 30 + 4 * i, 12:40] = 1
    return out


def discriminator(**kwargs) -> SpineGANDiscriminator:
    torch.manual_seed(1)
    return SpineGANDiscriminator(**{"features": (16, 16, 32), "hidden": 16, **kwargs})


def trainer(network: nn.Module, label: torch.Tensor, weight: float = 1.0, epochs: int = 1, **kwargs) -> AdversarialTrainer:
    torch.manual_seed(2)
    items = [{"image": torch.rand(1, *t.shape[1:]), "label": t} for t in label]
    critic = kwargs.pop("discriminator", None) or discriminator(dropout=0.0)
    return AdversarialTrainer(
        device="cpu",
        max_epochs=epochs,
        train_data_loader=DataLoader(items, batch_size=len(items)),
        g_network=network,
        g_optimizer=kwargs.pop("optimizer", None) or torch.optim.SGD(network.parameters(), 0.5),
        g_loss_function=GeneratorLoss(weight),
        recon_loss_function=LOSS,
        d_network=critic,
        d_optimizer=torch.optim.Adam(critic.parameters(), 0.005, betas=(0.5, 0.999)),
        d_loss_function=DiscriminatorLoss(),
        iteration_update=SegmentationStep(),
        **kwargs,
    )


def history(engine: AdversarialTrainer, key: str) -> list[float]:
    values: list[float] = []
    engine.add_event_handler(Events.ITERATION_COMPLETED, lambda e: values.append(float(e.state.output[0][key])))
    engine.run()
    return values


def test_losses_are_cross_entropies():
    torch.manual_seed(0)
    real, fake = torch.randn(2, 1, 3, 3), torch.randn(2, 1, 3, 3)
    entropy, one = nn.BCEWithLogitsLoss(), torch.ones(2, 1, 3, 3)
    torch.testing.assert_close(GeneratorLoss(0.3)(fake), 0.3 * entropy(fake, one))
    torch.testing.assert_close(DiscriminatorLoss()(real, fake), entropy(real, one) + entropy(fake, 0 * one))


def test_class_maps_are_equal_at_ignored_voxels():
    label = labels(2, 16)
    label[..., :5] = 255
    torch.manual_seed(0)
    logits = torch.randn(2, 3, 16, 16)
    fake, real = SegmentationStep(smoothing=0.02).maps(logits, label)
    torch.testing.assert_close(fake[..., 5:], logits.softmax(1)[..., 5:])
    torch.testing.assert_close(fake[..., :5], real[..., :5])
    assert real[..., :5].unique().tolist() == pytest.approx([0.02, 0.98])
    assert real.argmax(1, keepdim=True).eq(torch.where(label == 255, 0, label)).all()
    assert real.shape == fake.shape == logits.shape


def test_discriminator_separates_fixed_pairs():
    engine = trainer(Fixed(torch.randn(4, 2, 64, 64)), labels(), weight=0.0, epochs=25)
    engine.state.g_optimizer.param_groups[0]["lr"] = 0.0
    losses = history(engine, "discriminator_loss")
    assert losses[0] == pytest.approx(2 * math.log(2), abs=0.5)
    assert losses[-1] < 0.7 * losses[0]
    fake, real = (torch.stack([o[f"{key}_logits"] for o in engine.state.output]) for key in ("fake", "real"))
    assert real.mean() > 0 > fake.mean()


def test_zero_weight_equals_the_supervised_trainer():
    torch.manual_seed(0)
    network = SpineGANSegmenter(features=(4, 4, 8))
    plain, adversarial = copy.deepcopy(network), copy.deepcopy(network)
    engine = trainer(network, labels(), weight=0.0, epochs=3)
    engine.run()
    SupervisedTrainer(
        device="cpu",
        max_epochs=3,
        train_data_loader=engine.data_loader,
        network=plain,
        optimizer=torch.optim.SGD(plain.parameters(), 0.5),
        loss_function=LOSS,
    ).run()
    torch.testing.assert_close(dict(network.state_dict()), dict(plain.state_dict()))
    trainer(adversarial, labels(), weight=1.0, epochs=3).run()
    changed = [n for n, p in adversarial.named_parameters() if not torch.allclose(p, plain.get_parameter(n), atol=1e-6)]
    assert len(changed) > 0.9 * len(list(plain.parameters()))


def test_adversarial_gradient_reduces_the_generator_loss():
    """Trained and frozen discriminator, no segmentation loss."""
    first = trainer(Fixed(torch.randn(4, 2, 64, 64)), labels(), weight=0.0, epochs=30)
    first.run()
    critic = first.state.d_network
    engine = trainer(Fixed(torch.randn(4, 2, 64, 64)), labels(), weight=1.0, epochs=20, discriminator=critic)
    engine.state.recon_loss_function = lambda prediction, target: 0.0 * prediction.sum()
    engine.state.g_optimizer = torch.optim.Adam(engine.state.g_network.parameters(), 0.1)
    engine.state.d_optimizer.param_groups[0]["lr"] = 0.0
    losses = history(engine, "generator_loss")
    assert losses[-1] < 0.8 * losses[0]


def test_discriminator_is_updated_by_its_own_loss_only():
    critic = discriminator(dropout=0.0)
    reference = copy.deepcopy(critic)
    network = Fixed(torch.randn(4, 2, 64, 64))
    fake, real = SegmentationStep().maps(network.logits.detach(), labels())
    trainer(network, labels(), discriminator=critic, epochs=3, optimizer=torch.optim.SGD(network.parameters(), 0.0)).run()
    optimizer = torch.optim.Adam(reference.train().parameters(), 0.005, betas=(0.5, 0.999))
    for _ in range(3):
        optimizer.zero_grad()
        DiscriminatorLoss()(reference(real), reference(fake)).backward()
        optimizer.step()
    torch.testing.assert_close(dict(critic.named_parameters()), dict(reference.named_parameters()))
    assert all(p.requires_grad for p in critic.parameters())


def test_ignored_voxels_have_no_loss_and_no_gradient():
    label = labels()
    label[..., :20, :] = 255
    torch.manual_seed(0)
    first = torch.randn(4, 2, 64, 64)
    second, third = first.clone(), first.clone()
    second[..., :20, :] = 5 * torch.randn(4, 2, 20, 64)
    third[..., 20:, :] += 1.0 * torch.randn(4, 2, 44, 64)
    losses = []
    for logits in (first, second, third):
        network = Fixed(logits)
        engine = trainer(network, label)
        engine.run()
        losses.append([float(engine.state.output[0][k]) for k in ("loss", "generator_loss", "discriminator_loss")])
        assert network.logits.grad[..., :20, :].abs().max() == 0
        assert network.logits.grad[..., 20:, :].abs().max() > 0
    assert losses[0] == losses[1]
    assert all(a != b for a, b in zip(losses[0], losses[2], strict=True))


def test_output_has_the_keys_of_the_supervised_trainer(tmp_path):
    writer = mock.Mock()
    handler = TensorBoardStatsHandler(
        summary_writer=writer, tag_name="train_loss", output_transform=from_engine(["loss"], first=True)
    )
    engine = trainer(Fixed(torch.randn(4, 2, 64, 64)), labels(), weight=0.5, train_handlers=[handler])
    engine.run()
    output = engine.state.output
    assert len(output) == 4
    assert {"image", "label", "pred", "loss", "reals", "fakes", "real_logits", "fake_logits"} <= set(output[0])
    total = float(output[0]["reconstruction_loss"] + output[0]["generator_loss"])
    assert float(output[0]["loss"]) == pytest.approx(total)
    assert [c.args[1] for c in writer.add_scalar.call_args_list if c.args[0] == "train_loss"] == [pytest.approx(total)]
    assert not output[0]["fakes"].requires_grad


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: GeneratorLoss(-1.0), "weight=-1.0; must be at least 0"),
        (lambda: SegmentationStep(smoothing=0.5), "smoothing=0.5; must be at least 0"),
    ],
)
def test_bad_arguments_are_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()


NETWORK = {"patch_size": [48, 64], "spacing": [4.0, 3.0, 3.0], "network_def::features": [4, 4, 8]}
TINY = NETWORK | {
    "epochs": 2,
    "steps_per_epoch": None,
    "num_workers": 0,
    "batch_size": 4,
    "learning_rate": 0.01,
    "discriminator_def::features": [4, 4, 4],
    "discriminator_def::hidden": 4,
}


def workflow(bundle: Path, files: list[str], kind: str, **overrides) -> ConfigWorkflow:
    work = ConfigWorkflow(
        config_file=[str(bundle / "configs" / f) for f in files],
        meta_file=str(bundle / "configs" / "metadata.json"),
        logging_file=False,
        workflow_type=kind,
        bundle_root=str(bundle),
        device="cpu",
        **overrides,
    )
    work.initialize()
    assert work.check_properties() == []
    return work


def test_spine_gan_trains_evaluates_and_infers(bundle, phantom_set, tmp_path):
    overlay = "network/spinegan.yaml"
    shared = {"dataset_dir": str(phantom_set), "ckpt_dir": str(tmp_path), **TINY}
    work = workflow(bundle, ["train.yaml", overlay], "train", output_dir=str(tmp_path / "t"), **shared)
    critic = work.parser.get_parsed_content("discriminator")
    before = copy.deepcopy(critic.state_dict())
    work.run()
    assert isinstance(work.parser.get_parsed_content("train::trainer"), AdversarialTrainer)
    rows = list(csv.DictReader((tmp_path / "t" / "history.csv").open()))
    assert [float(r["epoch"]) for r in rows] == [1, 2]
    assert all(0 < float(r["train_loss"]) < 10 for r in rows)
    assert "val_mean_dice" in rows[0]
    assert any(not torch.equal(before[k], v) for k, v in critic.state_dict().items())
    saved = torch.load(tmp_path / "model.pt", weights_only=True)
    names = set(work.parser.get_parsed_content("network").state_dict())
    assert set(saved.get("model", saved)) == names
    work.finalize()

    files = ["train.yaml", overlay, "evaluate.yaml"]
    workflow(bundle, files, "train", output_dir=str(tmp_path / "e"), **shared).run()
    case = json.loads((phantom_set / "datalist.json").read_text())["testing"][0]
    assert (tmp_path / "e" / "report.html").is_file()
    assert [r["patient"] for r in csv.DictReader((tmp_path / "e" / "cases.csv").open())] == [case["patient"]]

    files = ["inference.yaml", overlay]
    paths = {"input": str(phantom_set / case["image"]), "checkpoint": str(tmp_path / "model.pt")}
    workflow(bundle, files, "infer", output=str(tmp_path / "i"), **paths, **NETWORK).run()
    mask = nib.load(next((tmp_path / "i").glob("*_fracture.nii.gz")))
    assert mask.shape == nib.load(phantom_set / case["image"]).shape
