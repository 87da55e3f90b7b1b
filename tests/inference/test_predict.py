# SPDX-License-Identifier: Apache-2.0
"""Probabilities are those of MONAI's inferers on the same network; shortcuts change nothing that matters."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from fakes import Asked, Threshold, affine_of, ball_scan, look, save, whole
from monai.inferers import SliceInferer, SlidingWindowInferer
from scripts.inference.predict import PatchConfig, predict_batch

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
@pytest.mark.parametrize("blend", ["constant", "gaussian"])
def test_slices_of_any_plane_as_monai_does_them(scan_path, network, plane, axis, blend):
    window = PatchConfig((48, 32), overlap=0.4, blend=blend, batch=3)
    _, found, grid = look(scan_path, Asked(network), window, (plane,), spacing=(-1, -1, -1), search="all", coarse_mm=0)
    inferer = SliceInferer(roi_size=(48, 32), spatial_dim=axis, sw_batch_size=4, overlap=0.4, mode=blend)
    with torch.no_grad():
        expected = inferer(image_of(scan_path), network).softmax(1)[0, 1].numpy()
    np.testing.assert_allclose(whole(found, grid), expected, atol=1e-3)


@pytest.mark.parametrize("size", [(16, 32, 48), (32, 32, 32)])
def test_3d_windows_as_monai_does_them(scan_path, size):
    torch.manual_seed(1)
    network = torch.nn.Sequential(
        torch.nn.Conv3d(1, 2, 5, padding=2), torch.nn.Tanh(), torch.nn.Conv3d(2, 2, 3, padding=1)
    )
    window = PatchConfig(size, overlap=0.5, blend="gaussian", batch=2)
    _, found, grid = look(scan_path, Asked(network), window, spacing=(-1, -1, -1), search="all")
    inferer = SlidingWindowInferer(roi_size=size, sw_batch_size=2, overlap=0.5, mode="gaussian")
    with torch.no_grad():
        expected = inferer(image_of(scan_path), network).softmax(1)[0, 1].numpy()
    np.testing.assert_allclose(whole(found, grid), expected, atol=1e-3)


def test_coarse_to_fine_finds_the_same_with_fewer_windows(scan_path):
    results, asked = [], []
    for search in ({"search": "all", "coarse_mm": 0}, {"search": "spine", "coarse_mm": 6.0}):
        runner = Asked(Threshold())
        _, found, grid = look(scan_path, runner, PatchConfig((48, 48)), spacing=(1.0, 1.0, 1.0), **search)
        results.append(whole(found, grid) > 0.5)
        asked.append(runner.windows)
    assert results[0].any()
    assert np.array_equal(*results)
    assert asked[1] < 0.7 * asked[0]


@pytest.mark.parametrize("step", [1, 3])
def test_neighbours_are_the_slices_beside_and_blank_beyond_the_border(scan_path, step):
    seen = []

    class Watching(torch.nn.Module):
        def forward(self, x):
            seen.append(x)
            return torch.zeros(len(x), 2, *x.shape[2:])

    window = PatchConfig((70, 90), neighbours=2, neighbour_step=step, batch=1, overlap=0)
    look(scan_path, Asked(Watching()), window, spacing=(-1, -1, -1), search="all", coarse_mm=0)
    image = image_of(scan_path)[0, 0]
    given = torch.cat(seen)
    assert given.shape == (SHAPE[0], 5, 70, 90)
    for k in range(SHAPE[0]):
        for channel, row in zip(given[k], k + step * np.arange(-2, 3), strict=True):
            inside = 0 <= row < SHAPE[0]
            torch.testing.assert_close(channel, image[row] if inside else torch.zeros_like(channel))


def test_mirrored_passes_and_ensembles_are_means_of_probabilities(network):
    batch = torch.rand(2, 1, 32, 48)
    window = PatchConfig((32, 48), flips=((0,), (0, 1)))
    with torch.no_grad():
        own = [network(batch), network(batch.flip(2)).flip(2), network(batch.flip(2, 3)).flip(2, 3)]
    expected = torch.stack([o.softmax(1)[:, 1] for o in own]).mean(0)
    torch.testing.assert_close(
        torch.sigmoid(predict_batch([Asked(network)], batch, window))[:, 0], expected, atol=1e-5, rtol=0
    )
    other = Threshold()
    pair = torch.sigmoid(predict_batch([Asked(network), Asked(other)], batch, PatchConfig((32, 48))))[:, 0]
    with torch.no_grad():
        expected = (network(batch).softmax(1)[:, 1] + other(batch).softmax(1)[:, 1]) / 2
    torch.testing.assert_close(pair, expected, atol=1e-5, rtol=0)


def test_three_planes_are_averaged(scan_path):
    window = PatchConfig((48, 48))
    parts = []
    for planes in (("sagittal",), ("coronal",), ("axial",), ("sagittal", "coronal", "axial")):
        _, found, grid = look(
            scan_path, Asked(Threshold(8)), window, planes, spacing=(-1, -1, -1), search="all", coarse_mm=0
        )
        parts.append(whole(found, grid))
    np.testing.assert_allclose(parts[3], np.mean(parts[:3], axis=0), atol=2e-3)


class Telling(torch.nn.Module):
    """A network with a third output: vertebra."""

    def forward(self, x):
        return torch.cat([0 * x, 4 * x - 2, 6 * x - 1], dim=1)


def test_the_third_output_is_told_behind_the_fracture_and_an_ensemble_tells_what_all_of_it_know():
    batch = torch.rand(2, 1, 32, 48)
    window = PatchConfig((32, 48), flips=((1,),))
    told = torch.sigmoid(predict_batch([Asked(Telling())], batch, window))
    torch.testing.assert_close(told[:, :1], Telling()(batch).narrow(1, 0, 2).softmax(1)[:, 1:], atol=1e-5, rtol=0)
    torch.testing.assert_close(told[:, 1:], torch.sigmoid(6 * batch - 1), atol=1e-5, rtol=0)
    assert predict_batch([Asked(Telling()), Asked(Threshold())], batch, window).shape == (2, 1, 32, 48)


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
def test_a_wrong_value_is_named(arguments, word):
    with pytest.raises(ValueError, match=word):
        PatchConfig(**arguments)
