# SPDX-License-Identifier: Apache-2.0
"""Scans with a known segmentation, and an untrained network that segments voxels above 400 HU."""

from __future__ import annotations

from pathlib import Path

import nibabel as nib
import numpy as np
import torch
from scripts.inference.pipeline import Pipeline
from scripts.inference.predict import PatchConfig
from scripts.io.ct_volume import Scan
from scripts.io.scan_header import read_header
from scripts.io.working_grid import WorkingGrid
from scripts.postprocessing.findings import PostProcessing
from scripts.postprocessing.probability_map import Probabilities

MARK_HU = 400.0


class Threshold(torch.nn.Module):
    """Logits that grow with the density of the middle channel: 0 at ``MARK_HU`` of the default window."""

    def __init__(self, sharpness: float = 30.0) -> None:
        super().__init__()
        self.sharpness = torch.nn.Parameter(torch.tensor(float(sharpness)))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        middle = x[:, x.shape[1] // 2 : x.shape[1] // 2 + 1]
        logit = (middle - (MARK_HU + 200) / 1200) * self.sharpness
        return torch.cat([-logit / 2, logit / 2], dim=1)


class HuCodedOutputs(torch.nn.Module):
    """Logits of background, fracture, vertebra and body that the HU of the middle channel name, see ``spine_scene``.

    Args:
        num_outputs: 2 to 4, the first of them.
    """

    THRESHOLDS_HU = (600.0, 170.0, 400.0)  # of fracture, vertebra and body

    def __init__(self, num_outputs: int = 4) -> None:
        super().__init__()
        self.num_outputs = num_outputs
        self.sharpness = torch.nn.Parameter(torch.tensor(0.05))  # per HU

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        hu = x[:, x.shape[1] // 2 : x.shape[1] // 2 + 1] * 1200 - 200
        fracture, vertebra, body = ((hu - t) * self.sharpness for t in self.THRESHOLDS_HU)
        return torch.cat([-fracture / 2, fracture / 2, vertebra, body], dim=1)[:, : self.num_outputs]


class FakeRunner:
    """Runner of a module that counts the windows."""

    name = "fake"

    def __init__(self, network: torch.nn.Module) -> None:
        self.network, self.windows = network.eval(), 0

    def __call__(self, batch: torch.Tensor) -> torch.Tensor:
        self.windows += len(batch)
        with torch.no_grad():
            return self.network(batch)


def ball_scan(shape, affine: np.ndarray, centres, radius: float = 18.0) -> np.ndarray:
    """Soft tissue with balls of bone; HU fall linearly across the surface, through ``MARK_HU`` at ``radius`` mm."""
    index = np.stack(np.meshgrid(*(np.arange(n) for n in shape), indexing="ij"), -1).reshape(-1, 3)
    world = index @ affine[:3, :3].T + affine[:3, 3]
    distance = np.min([np.linalg.norm(world - c, axis=1) for c in centres], axis=0)
    hu = np.clip(MARK_HU + (radius - distance) * 40, 40, 900)
    return np.round(hu).reshape(shape).astype(np.int16)


def with_tissue(hu: np.ndarray, seed: int = 0) -> np.ndarray:
    """Values whose soft parts, below 100 HU, are noisy fat in front and muscle behind, as the check of HU expects."""
    noise = np.random.default_rng(seed).normal(0, 22, hu.shape)
    middle = np.where(np.arange(hu.shape[1]) < hu.shape[1] // 2, 50, -100)[None, :, None]
    return np.where(hu > 100, hu, np.clip(np.round(middle + noise), -200, 150)).astype(np.int16)


def affine_of(shape, spacing, directions=None, origin=(0.0, 0.0, 0.0)) -> np.ndarray:
    """Affine with the middle voxel at ``origin``."""
    affine = np.eye(4)
    affine[:3, :3] = (np.eye(3) if directions is None else np.asarray(directions)) * np.asarray(spacing)
    affine[:3, 3] = np.asarray(origin) - affine[:3, :3] @ ((np.asarray(shape) - 1) / 2)
    return affine


def save(path: Path, data: np.ndarray, affine: np.ndarray) -> Path:
    image = nib.Nifti1Image(data, affine)
    image.header.set_xyzt_units("mm")
    nib.save(image, path)
    return path


def predict(
    path: Path | str, runner, patch: PatchConfig, planes=("sagittal",), consistency_mm=None, **search
) -> tuple[Scan, Probabilities, WorkingGrid]:
    """Scan, probabilities and working grid of a pipeline, without vertebra-level consistency by default."""
    header = read_header(path, require_volume=False)
    scan = Scan(header, expect_hu=False)
    keys = ("volume",) if len(patch.size) == 3 else planes
    runners = {k: runner if isinstance(runner, list) else [runner] for k in keys}
    pipeline = Pipeline(runners, patch, PostProcessing(consistency_mm=consistency_mm), **search)
    grid = pipeline.working_grid(header)
    return scan, pipeline(scan, grid), grid


def on_whole_grid(predicted: Probabilities, grid: WorkingGrid) -> np.ndarray:
    """Probabilities on the whole working grid."""
    full = np.zeros(grid.shape, np.float32)
    box = tuple(slice(o, o + n) for o, n in zip(predicted.origin, predicted.volume.shape, strict=True))
    full[box] = predicted.volume
    return full
