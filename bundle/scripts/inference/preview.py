# SPDX-License-Identifier: Apache-2.0
"""Overlay pictures: outlines of prediction and reference on sagittal slices of the CT."""

from __future__ import annotations

from pathlib import Path

import nibabel as nib
import numpy as np
from numpy.typing import NDArray

from ..files import replacing, scan_stem

BONE_WINDOW = (-200.0, 900.0)
COLOURS = {"reference": "#39d353", "prediction": "#ff9f1c"}


def _canonical(array: NDArray, affine: NDArray) -> tuple[NDArray, NDArray]:
    image = nib.as_closest_canonical(nib.Nifti1Image(array, affine))
    return np.asarray(image.dataobj), np.abs(np.linalg.norm(image.affine[:3, :3], axis=0))


def choose_slices(mask: NDArray[np.bool_], number: int = 3) -> list[int]:
    """Sagittal slices that show most of the mask, spread over its width; slices around the middle when it is empty."""
    counts = mask.sum(axis=(1, 2))
    if not counts.any():
        middle, step = mask.shape[0] // 2, max(mask.shape[0] // 8, 1)
        return sorted(
            {min(max(middle + step * k, 0), mask.shape[0] - 1) for k in range(-(number // 2), number // 2 + 1)}
        )
    total = np.cumsum(counts) / counts.sum()
    return sorted({int(np.searchsorted(total, q)) for q in np.linspace(0.25, 0.75, number)})


def save_overlay(
    path: str | Path,
    image: NDArray,
    affine: NDArray,
    prediction: NDArray | None = None,
    reference: NDArray | None = None,
    title: str = "",
    number: int = 3,
) -> None:
    """Write a picture of sagittal slices with outlines.

    Args:
        path: PNG to write; it appears under this name only when complete.
        image: CT in HU (X, Y, Z), any orientation.
        affine: voxel to world (R, A, S).
        prediction: mask on the same grid, or None.
        reference: mask on the same grid, or None.
        title: line above the picture.
        number: slices to show.
    """
    from matplotlib.figure import Figure
    from matplotlib.lines import Line2D

    volume, spacing = _canonical(np.asarray(image, np.float32), affine)
    masks = {
        name: _canonical(np.asarray(mask > 0, np.uint8), affine)[0] > 0
        for name, mask in (("reference", reference), ("prediction", prediction))
        if mask is not None
    }
    shown = np.zeros(volume.shape, bool)
    for mask in masks.values():
        shown |= mask
    slices = choose_slices(shown, number)
    extent = (volume.shape[1] * spacing[1], volume.shape[2] * spacing[2])
    width = 3.2
    figure = Figure(
        figsize=(width * len(slices), width * extent[1] / extent[0] + 0.5), layout="constrained", facecolor="black"
    )
    axes = np.atleast_1d(figure.subplots(1, len(slices)))
    for axis, index in zip(axes, slices, strict=True):
        # Anterior to the left, as sagittal CT is read.
        axis.imshow(
            volume[index, ::-1].T,
            cmap="gray",
            vmin=BONE_WINDOW[0],
            vmax=BONE_WINDOW[1],
            origin="lower",
            extent=(0, extent[0], 0, extent[1]),
        )
        for name, mask in masks.items():
            if mask[index].any():
                x = (np.arange(volume.shape[1]) + 0.5) * spacing[1]
                z = (np.arange(volume.shape[2]) + 0.5) * spacing[2]
                axis.contour(x, z, mask[index, ::-1].T, levels=[0.5], colors=COLOURS[name], linewidths=1.2)
        axis.set_axis_off()
    lines = [Line2D([], [], color=COLOURS[name], label=name) for name in masks]
    if lines:
        axes[0].legend(
            handles=lines, loc="lower left", fontsize=7, labelcolor="white", framealpha=0.3, facecolor="black"
        )
    if title:
        figure.suptitle(title, color="white", fontsize=9)
    with replacing(path) as temporary:
        figure.savefig(temporary, dpi=110)


class OverlayWriter:
    """Handler that writes an overlay for every case that an evaluator finishes.

    It expects ``pred`` as a label map on the scan's own grid, as ``inference.yaml`` and ``evaluate.yaml`` give it, and reads the CT
    again from its file, because the network's input was resampled and windowed.

    Args:
        output_dir: folder of the pictures.
        reference_key: item that holds the reference on the scan's own grid, or None.
        limit: number of pictures at most.
    """

    def __init__(self, output_dir: str, reference_key: str | None = None, limit: int = 50) -> None:
        self.output_dir, self.reference_key, self.limit, self.written = Path(output_dir), reference_key, limit, 0

    def attach(self, engine) -> None:
        """Register at an evaluator."""
        from ignite.engine import Events

        engine.add_event_handler(Events.ITERATION_COMPLETED, self)

    def __call__(self, engine) -> None:
        """Write the pictures of one batch."""
        items = engine.state.output if isinstance(engine.state.output, list) else [engine.state.output]
        for item, source in zip(
            items, engine.state.batch if isinstance(engine.state.batch, list) else items, strict=False
        ):
            if self.written >= self.limit:
                return
            pred = item["pred"]
            name = str(item["image"].meta.get("filename_or_obj", source))
            volume = nib.load(name) if name.endswith((".nii", ".nii.gz")) else None
            if volume is None:
                continue
            mask = np.asarray(pred.cpu())[-1] > 0
            reference = None
            if self.reference_key and self.reference_key in item:
                reference = np.asarray(item[self.reference_key].cpu())[-1] > 0
            stem = scan_stem(name)
            save_overlay(
                self.output_dir / f"{stem}_overlay.png",
                np.asarray(volume.dataobj),
                volume.affine,
                mask,
                reference,
                stem,
            )
            self.written += 1
