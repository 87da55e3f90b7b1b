# SPDX-License-Identifier: Apache-2.0
"""Randomisation of batches: samples as functions of their seeds, streams of transforms, blank voxels, bad input."""

from __future__ import annotations

import pytest
import torch
from monai.bundle import ConfigParser
from monai.data import MetaTensor
from randomised import CLASSES, slices
from scripts.training.randomisation.acquisition import RandCtNoise, RandGamma
from scripts.training.randomisation.batch import OUTSIDE, BatchRandomisation
from scripts.training.randomisation.field_of_view import RandFieldOfView
from scripts.training.randomisation.geometry import RandBatchAffine

SIZE = (32, 40)


def everything(**arguments) -> BatchRandomisation:
    transforms = [c(patch_size=SIZE) if c is RandBatchAffine else c() for c in CLASSES]
    return BatchRandomisation(transforms, patch_size=SIZE, **arguments)


@pytest.mark.parametrize("channels", [1, 2, 5])
def test_shapes_values_and_codes(channels):
    image, label = slices(8, channels)
    original = image.clone(), label.clone()
    new, codes = everything().randomise(image, label, range(8))
    assert new.shape == (8, channels, *SIZE)
    assert codes.shape == (8, 1, *SIZE)
    assert new.dtype == torch.float32
    assert new.isfinite().all()
    assert float(new.min()) >= 0
    assert float(new.max()) <= 1
    assert set(codes.unique().tolist()) <= {0, 1, 2, 3, 4, 5, 6, 255}
    assert codes.dtype == label.dtype
    assert torch.equal(image, original[0])  # the loader's tensors are kept
    assert torch.equal(label, original[1])


def test_sample_depends_on_its_seed_not_on_its_batch():
    image, label = slices(6)
    randomisation, seeds = everything(), [11, 22, 33, 44, 55, 66]
    whole = randomisation.randomise(image, label, seeds)
    for rows in ([0], [3], [5, 2], [1, 2, 3, 4]):
        part = randomisation.randomise(image[rows], label[rows], [seeds[n] for n in rows])
        torch.testing.assert_close(part[0], whole[0][rows], atol=2e-6, rtol=0)
        assert torch.equal(part[1], whole[1][rows])
    again = randomisation.randomise(image, label, seeds)
    assert torch.equal(again[0], whole[0])
    other = randomisation.randomise(image, label, [seed + 1 for seed in seeds])
    assert ((other[0] - whole[0]).abs().mean((1, 2, 3)) > 0.01).all()


@pytest.mark.parametrize("left_out", CLASSES, ids=lambda c: c.__name__)
def test_without_one_the_others_draw_the_same(left_out, monkeypatch):
    image, label = slices(12)

    def drawn(classes) -> dict[str, list]:
        record: dict[str, list] = {}
        for c in classes:
            original = c.parameters

            def parameters(self, draw, original=original, name=c.__name__):
                values = original(self, draw)
                record.setdefault(name, []).append((values, draw.integers(2**31 - 1)))
                return values

            monkeypatch.setattr(c, "parameters", parameters)
        BatchRandomisation([c() for c in classes]).randomise(image, label, range(12))
        monkeypatch.undo()
        return record

    whole, fewer = drawn(CLASSES), drawn([c for c in CLASSES if c is not left_out])
    assert set(whole) == {c.__name__ for c in CLASSES}
    assert whole.pop(left_out.__name__)
    assert whole == fewer


def test_repeated_class_has_a_stream_of_its_own():
    image = torch.full((2, 1, 32, 32), 0.5)
    once, twice = (BatchRandomisation([RandCtNoise((20, 20))] * n).randomise(image, image, [1, 2])[0] - 0.5 for n in (1, 2))
    assert float((twice - once).std() * 1200) == pytest.approx(20, rel=0.1)
    assert not torch.allclose(twice, 2 * once)


def test_blank_voxels_stay_blank_and_are_ignored():
    image, label = slices(8)
    moving = (RandBatchAffine, RandFieldOfView)  # which blank more
    canvas = BatchRandomisation([c() for c in CLASSES if c not in moving])
    new, codes = canvas.randomise(image, label, range(8))
    corner = torch.zeros(image.shape[2:], dtype=torch.bool)
    corner[:9, :11] = True
    assert (new[:, 2][:, corner] == 0).all()
    assert (codes[:, 0][:, corner] == 255).all()
    assert torch.equal(codes[:, 0][:, ~corner], label[:, 0][:, ~corner])
    # A blank neighbour is blank or, where channels are replaced, the centre slice; about 0.3 * 0.3 of the samples.
    blank = (new[:, 0] == 0).flatten(1).all(1)
    assert blank.sum() >= 4


@pytest.mark.parametrize(("outside_hu", "value"), [(None, 0.0), (40.0, 0.2), (-3000.0, 0.0)])
def test_blank_voxels_hold_one_value_in_the_end(outside_hu, value):
    image, label = slices(4)
    new, codes = BatchRandomisation([RandCtNoise()], outside_hu=outside_hu).randomise(image, label, range(4))
    assert torch.allclose(new[image == OUTSIDE], torch.tensor(value))
    assert torch.equal(codes == 255, image[:, 2:3] == OUTSIDE)


@pytest.mark.parametrize("transform", CLASSES, ids=lambda c: c.__name__)
def test_blank_voxels_contaminate_no_others(transform, monkeypatch):
    """The value with which they are filled has no part in the others."""
    image, label = slices(8)
    one = BatchRandomisation([transform()], hu_window=(-200.0, 1000.0)).randomise(image, label, range(8))
    monkeypatch.setattr(torch.Tensor, "masked_fill_", lambda self, mask, value, fill=torch.Tensor.masked_fill_: fill(
        self, mask, 5000.0 if value == -200.0 else value))  # fmt: skip
    other = BatchRandomisation([transform()], hu_window=(-200.0, 1000.0)).randomise(image, label, range(8))
    torch.testing.assert_close(one[0], other[0], atol=0.005 if transform is RandBatchAffine else 2e-6, rtol=0)
    assert torch.equal(one[1], other[1])


def test_no_transforms_convert_clip_and_crop():
    image, label = slices(3)
    new, codes = BatchRandomisation(patch_size=SIZE)({"image": image, "label": label})  # no seeds
    expected = torch.where(image == OUTSIDE, torch.zeros(()), image.clamp(0, 1))[:, :, 8:40, 8:48]
    torch.testing.assert_close(new, expected, atol=1e-6, rtol=0)
    blank = (image[:, 2:3] == OUTSIDE)[:, :, 8:40, 8:48]
    assert torch.equal(codes, label[:, :, 8:40, 8:48].masked_fill(blank, 255))


def test_prepare_batch_moves_and_drops_metadata():
    image, label = slices(2)
    batch = {"image": MetaTensor(image), "label": MetaTensor(label), "augmentation_seed": torch.tensor([3, 2**31 - 2])}
    new, codes = everything()(batch, torch.device("cpu"), non_blocking=True)
    assert type(new) is torch.Tensor
    assert type(codes) is torch.Tensor
    assert not new.requires_grad
    expected = everything().randomise(image, label, [3, 2**31 - 2])
    assert torch.equal(new, expected[0])
    assert torch.equal(codes, expected[1])


def test_nothing_is_copied_back_from_the_device(monkeypatch):
    """No operation of the transforms waits for values of the device, other than the seeds of the loader."""

    def refuse(*_args, **_kwargs):
        raise AssertionError("a copy from the device")

    image, label = slices(4)
    for name in ("item", "tolist", "cpu", "numpy", "__bool__", "__float__", "__int__", "nonzero"):
        monkeypatch.setattr(torch.Tensor, name, refuse)
    everything().randomise(image, label, range(4))


def test_classes_are_targets_of_a_config():
    package = "scripts.training.randomisation"
    config = {
        "prepare": {
            "_target_": f"{package}.batch.BatchRandomisation",
            "transforms": [{"_target_": f"{c.__module__}.{c.__name__}"} for c in CLASSES],
            "hu_window": [-200, 1000],
            "patch_size": list(SIZE),
        }
    }
    randomisation = ConfigParser(config).get_parsed_content("prepare")
    image, label = slices(2)
    assert randomisation.randomise(image, label, [1, 2])[0].shape[2:] == SIZE


def test_bad_input_is_refused():
    image, label = slices(2)
    with pytest.raises(KeyError, match=r"`augment` must contain .*RandSeedd"):
        everything()({"image": image, "label": label})
    with pytest.raises(ValueError, match=r"shape \(2, 1, 4, 4, 4\); must be \(B, C, H, W\)"):
        BatchRandomisation().randomise(torch.zeros(2, 1, 4, 4, 4), torch.zeros(2, 1, 4, 4, 4), [1, 2])
    with pytest.raises(ValueError, match=r"size \(48, 56\), patch_size=\(64, 40\); the canvas"):
        BatchRandomisation(patch_size=(64, 40)).randomise(image, label, [1, 2])
    for arguments, message in (
        ({"hu_window": (5, 5)}, "hu_window=.*the smaller first"),
        ({"outside": 0.0}, "outside=0.0; must be below 0"),
        ({"patch_size": (4, 4, 4)}, "patch_size=.*two numbers"),
        ({"transforms": ["RandGamma"]}, "transforms contains 'RandGamma'"),
    ):
        with pytest.raises(ValueError, match=message):
            BatchRandomisation(**arguments)
    assert BatchRandomisation([RandGamma()]).transforms
