# SPDX-License-Identifier: Apache-2.0
"""Probabilities equal those of MONAI's inferers on the same network; the coarse pass changes no mask."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from fakes import FakeRunner, Threshold, affine_of, ball_scan, on_whole_grid, predict, save
from monai.inferers import SliceInferer, SlidingWindowInferer
from scripts.inference.predict import PatchConfig, predict_batch, predict_slices, predict_volume
from scripts.inference.windows import WindowGrid
from torch.utils._python_dispatch import TorchDispatchMode

SHAPE = (28, 70, 90)


@pytest.fixture(scope="module")
def scan_path(tmp_path_factory):
    affine = affine_of(SHAPE, (3.0, 1.5, 1.5))
    data = ball_scan(SHAPE, affine, [(0, 10, -30), (8, 0, 35)], radius=14)
    return save(tmp_path_factory.mktemp("scan") / "ct.nii.gz", data, affine)


@pytest.fixture(scope="module")
def network():
    torch.manual_seed(0)
    layers = torch.nn.Conv2d(1, 4, 9, padding=4), torch.nn.ReLU(), torch.nn.Conv2d(4, 2, 5, padding=2)
    return torch.nn.Sequential(*layers).eval()


def image_of(path) -> torch.Tensor:
    import nibabel as nib

    data = np.asarray(nib.load(path).dataobj).astype(np.float32)
    return torch.from_numpy(np.clip((data + 200) / 1200, 0, 1))[None, None]


@pytest.mark.parametrize(("plane", "axis"), [("sagittal", 0), ("coronal", 1), ("axial", 2)])
@pytest.mark.parametrize(("blend", "size", "outside_hu"), [("constant", (48, 32), None), ("gaussian", (96, 112), 40.0)])
def test_slices_of_any_plane_equal_monais_slice_inferer(scan_path, network, plane, axis, blend, size, outside_hu):
    patch = PatchConfig(size, outside_hu=outside_hu, overlap=0.4, blend=blend, sw_batch_size=3)
    _, predicted, grid = predict(scan_path, FakeRunner(network), patch, (plane,), spacing=(-1, -1, -1), search="all", coarse_mm=0)
    cval = 0.0 if outside_hu is None else (outside_hu + 200) / 1200
    inferer = SliceInferer(
        roi_size=size, spatial_dim=axis, sw_batch_size=4, overlap=0.4, mode=blend, padding_mode="constant", cval=cval
    )
    with torch.no_grad():
        expected = inferer(image_of(scan_path), network).softmax(1)[0, 1].numpy()
    np.testing.assert_allclose(on_whole_grid(predicted, grid), expected, atol=1e-3)


@pytest.mark.parametrize(("size", "outside_hu"), [((16, 32, 48), None), ((32, 32, 32), None), ((96, 96, 96), 40.0)])
def test_3d_windows_equal_monais_sliding_window_inferer(scan_path, size, outside_hu):
    torch.manual_seed(1)
    network = torch.nn.Sequential(torch.nn.Conv3d(1, 2, 5, padding=2), torch.nn.Tanh(), torch.nn.Conv3d(2, 2, 3, padding=1))
    patch = PatchConfig(size, outside_hu=outside_hu, overlap=0.5, blend="gaussian", sw_batch_size=2)
    _, predicted, grid = predict(scan_path, FakeRunner(network), patch, spacing=(-1, -1, -1), search="all")
    cval = 0.0 if outside_hu is None else (outside_hu + 200) / 1200
    inferer = SlidingWindowInferer(roi_size=size, sw_batch_size=2, overlap=0.5, mode="gaussian", padding_mode="constant", cval=cval)
    with torch.no_grad():
        expected = inferer(image_of(scan_path), network).softmax(1)[0, 1].numpy()
    np.testing.assert_allclose(on_whole_grid(predicted, grid), expected, atol=1e-3)


def test_coarse_pass_saves_windows_and_changes_no_mask(scan_path):
    results, windows = [], []
    for search in ({"search": "all", "coarse_mm": 0}, {"search": "spine", "coarse_mm": 6.0}):
        runner = FakeRunner(Threshold())
        _, predicted, grid = predict(scan_path, runner, PatchConfig((48, 48)), spacing=(1.0, 1.0, 1.0), **search)
        results.append(on_whole_grid(predicted, grid) > 0.5)
        windows.append(runner.windows)
    assert results[0].any()
    assert np.array_equal(*results)
    assert windows[1] < 0.7 * windows[0]


@pytest.mark.parametrize(("step", "outside_hu", "value"), [(1, None, 0.0), (3, 40.0, 0.2), (3, -1024.0, 0.0), (1, 3000.0, 1.0)])
def test_slice_context_outside_the_scan_has_one_value(scan_path, step, outside_hu, value):
    inputs = []

    class Recording(torch.nn.Module):
        def forward(self, x):
            inputs.append(x)
            return torch.zeros(len(x), 2, *x.shape[2:])

    patch = PatchConfig((70, 90), outside_hu=outside_hu, neighbours=2, neighbour_step=step, sw_batch_size=1, overlap=0)
    predict(scan_path, FakeRunner(Recording()), patch, spacing=(-1, -1, -1), search="all", coarse_mm=0)
    image = image_of(scan_path)[0, 0]
    batches = torch.cat(inputs[1:])  # after the one that shows the number of outputs
    assert batches.shape == (SHAPE[0], 5, 70, 90)
    for k in range(SHAPE[0]):
        for channel, row in zip(batches[k], k + step * np.arange(-2, 3), strict=True):
            inside = 0 <= row < SHAPE[0]
            torch.testing.assert_close(channel, image[row] if inside else torch.full_like(channel, value))


class Waits(TorchDispatchMode):
    """Operations whose result the program needs at once, for which a GPU's queue is emptied."""

    NAMES = ("aten._local_scalar_dense", "aten.nonzero", "aten.masked_select", "aten.unique", "aten.equal")

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        name = str(func)
        boolean = name.startswith("aten.index") and any(getattr(t, "dtype", None) == torch.bool for t in (args[1] or []))
        if name.startswith(self.NAMES) or boolean:
            self.found.append(name)
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("size", [(16, 24), (16, 16, 24)])
def test_no_batch_waits_for_the_device(size):
    shape, runner = (24, 40, 60), FakeRunner(Threshold())
    patch = PatchConfig(size, blend="gaussian", sw_batch_size=2)
    grid = WindowGrid.plan(shape[-len(patch.size) :], patch.size, 0.25)

    def sampler(indices):
        return np.full([len(i) for i in indices], 300, np.int16)

    with Waits() as waits:
        if len(size) == 3:
            slices = list(predict_volume(sampler, shape, grid.all(), grid, patch, [runner]))
        else:
            windows = {k: grid.all() for k in range(shape[0])}
            slices = list(predict_slices(sampler, shape, 0, windows, grid, patch, [runner]))
        assert not waits.found
        torch.ones(2).sum().item()
    assert waits.found == ["aten._local_scalar_dense.default"]  # what a wait would look like
    assert len(slices) == shape[0]


def test_only_the_part_of_the_slices_with_windows_is_sampled():
    shape, runner, patch = (24, 40, 60), FakeRunner(Threshold()), PatchConfig((16, 24))
    grid, sampled = WindowGrid.plan(shape[1:], patch.size, 0.25), []

    def sampler(indices):
        sampled.append(indices)
        return np.full([len(i) for i in indices], 300, np.int16)

    slices = dict(predict_slices(sampler, shape, 0, {5: [(3, 10)], 9: [(8, 30)], 12: []}, grid, patch, [runner]))
    assert [i.tolist() for i in sampled[0]] == [[5, 9], list(range(3, 24)), list(range(10, 54))]
    assert len(sampled) == 1
    assert list(slices) == [5, 9]
    assert (slices[5][0] > 0).nonzero()[0].min() == 3
    assert np.array_equal((slices[9] > 0).any(axis=(0, 1)).nonzero()[0], np.arange(30, 54))


def test_mirrored_passes_and_ensembles_average_probabilities(network):
    batch = torch.rand(2, 1, 32, 48)
    patch = PatchConfig((32, 48), flips=((0,), (0, 1)))
    with torch.no_grad():
        passes = [network(batch), network(batch.flip(2)).flip(2), network(batch.flip(2, 3)).flip(2, 3)]
    expected = torch.stack([o.softmax(1)[:, 1] for o in passes]).mean(0)
    torch.testing.assert_close(torch.sigmoid(predict_batch([FakeRunner(network)], batch, patch))[:, 0], expected, atol=1e-5, rtol=0)
    other = Threshold()
    pair = torch.sigmoid(predict_batch([FakeRunner(network), FakeRunner(other)], batch, PatchConfig((32, 48))))[:, 0]
    with torch.no_grad():
        expected = (network(batch).softmax(1)[:, 1] + other(batch).softmax(1)[:, 1]) / 2
    torch.testing.assert_close(pair, expected, atol=1e-5, rtol=0)


def test_three_planes_are_averaged(scan_path):
    patch = PatchConfig((48, 48))
    parts = []
    for planes in (("sagittal",), ("coronal",), ("axial",), ("sagittal", "coronal", "axial")):
        _, predicted, grid = predict(
            scan_path, FakeRunner(Threshold(8)), patch, planes, spacing=(-1, -1, -1), search="all", coarse_mm=0
        )
        parts.append(on_whole_grid(predicted, grid))
    np.testing.assert_allclose(parts[3], np.mean(parts[:3], axis=0), atol=2e-3)


class ThreeOutputs(torch.nn.Module):
    """Network with an output of vertebra."""

    def forward(self, x):
        return torch.cat([0 * x, 4 * x - 2, 6 * x - 1], dim=1)


def test_vertebra_logits_need_the_output_in_every_network():
    batch = torch.rand(2, 1, 32, 48)
    patch = PatchConfig((32, 48), flips=((1,),))
    probabilities = torch.sigmoid(predict_batch([FakeRunner(ThreeOutputs())], batch, patch))
    torch.testing.assert_close(probabilities[:, :1], ThreeOutputs()(batch).narrow(1, 0, 2).softmax(1)[:, 1:], atol=1e-5, rtol=0)
    torch.testing.assert_close(probabilities[:, 1:], torch.sigmoid(6 * batch - 1), atol=1e-5, rtol=0)
    assert predict_batch([FakeRunner(ThreeOutputs()), FakeRunner(Threshold())], batch, patch).shape == (2, 1, 32, 48)


@pytest.mark.parametrize(
    ("arguments", "word"),
    [
        ({"size": (8, 64)}, "patch_size"),
        ({"size": (64, 64), "hu": (5.0, 5.0)}, "hu_window"),
        ({"size": (64, 64), "overlap": 1.0}, "overlap"),
        ({"size": (64, 64, 64), "neighbours": 1}, "neighbours"),
        ({"size": (64, 64), "flips": ((2,),)}, "flips"),
        ({"size": (64, 64), "blend": "linear"}, "blend"),
    ],
)
def test_values_out_of_range_are_rejected_by_name(arguments, word):
    with pytest.raises(ValueError, match=word):
        PatchConfig(**arguments)
