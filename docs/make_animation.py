# SPDX-License-Identifier: Apache-2.0
r"""Animation of a scan and its mask: ``python docs/make_animation.py --image CT --mask MASK --out docs/images/result.gif``.

The picture of the README shows a phantom:

    spine-fracture data phantom --out data --cases 6 --seed 4100 --regions thoracolumbar --grades 3 --healthy 0 \
        --spacing "[1.5,0.8,0.8]"
    spine-fracture segment data/images/phantom-4102.nii.gz --out results
    python docs/make_animation.py --image data/images/phantom-4102.nii.gz --mask results/phantom-4102_fracture.nii.gz \
        --out docs/images/result.gif
"""

from __future__ import annotations

import io
import sys
from pathlib import Path

import fire
import nibabel as nib
from matplotlib.figure import Figure
from PIL import Image

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "bundle"))

from scripts.core.files import atomic_write
from scripts.visualization.panes import mark_pane, slice_title
from scripts.visualization.slices import outline, ras_affine, ras_volume, show_slice


def animate(image: str, mask: str, out: str, frames: int = 21, seconds: float = 4.0) -> None:
    """Write a GIF that scrolls through sagittal slices from right to left and back, the mask outlined.

    Args:
        image: CT (NIfTI).
        mask: mask on the grid of the CT.
        out: file to write.
        frames: slices shown, around the middle of the mask.
        seconds: length of the loop.
    """
    stored = nib.load(image)
    (ct, spacing), world = ras_volume(stored), ras_affine(stored)
    marked, _ = ras_volume(nib.load(mask))
    rows = marked.any(axis=(1, 2)).nonzero()[0]
    middle = int(rows.mean()) if rows.size else ct.shape[0] // 2
    first = max(middle - frames // 2, 0)
    indices = list(range(first, min(first + frames, ct.shape[0])))
    pictures = []
    for index in [*indices, *indices[-2:0:-1]]:
        figure = Figure(figsize=(6.6, 4.2), facecolor="black")
        for column in range(2):
            axes = figure.add_axes((0.01 + 0.495 * column, 0.02, 0.485, 0.92))
            show_slice(axes, ct[index], spacing[1:])
            if column:
                outline(axes, marked[index] > 0, spacing[1:], width=1.8, fill=0.25)
            shown = "fracture by the network" if marked[index].any() else "nothing marked here"
            mark_pane(axes, 0, shown if column else slice_title(world, ct.shape, 0, index), 9.0)
        buffer = io.BytesIO()
        figure.savefig(buffer, dpi=90, facecolor="black")
        pictures.append(Image.open(buffer).convert("P", palette=Image.Palette.ADAPTIVE, colors=64))
    with atomic_write(out) as temporary:
        duration = int(1000 * seconds / len(pictures))
        pictures[0].save(temporary, save_all=True, append_images=pictures[1:], duration=duration, loop=0, optimize=True)
    print(out)


if __name__ == "__main__":
    fire.Fire(animate)
