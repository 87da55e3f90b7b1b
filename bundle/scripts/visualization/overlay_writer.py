# SPDX-License-Identifier: Apache-2.0
"""The handler that leaves a picture of every case."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np

from ..io.formats import stem
from .overlay import save_overlay


class OverlayWriter:
    """Handler that writes an overlay for every case that an evaluator finishes.

    It expects ``pred`` as a label map on the scan's own grid, as ``inference.yaml`` and ``evaluate.yaml`` give it, and reads the CT
    again from its file, because the network's input was resampled and windowed.

    Args:
        output_dir: folder of the pictures.
        reference_key: item that holds the reference on the scan's own grid, or None.
        limit: number of pictures at most; None draws every case.
        source_root: folder below which pictures repeat the folders of their scans; empty puts all side by side.
    """

    def __init__(
        self, output_dir: str, reference_key: str | None = None, limit: int | None = 50, source_root: str = ""
    ) -> None:
        from monai.transforms import LoadImage

        self.source_root = source_root
        self.output_dir, self.reference_key, self.limit, self.written = Path(output_dir), reference_key, limit, 0
        self.read = LoadImage(image_only=True)
        self.paths: set[Path] = set()

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
            if self.limit is not None and self.written >= self.limit:
                return
            pred = item["pred"]
            name = str(item["image"].meta.get("filename_or_obj", source))
            if not Path(name).exists():
                continue
            volume = self.read(name)
            mask = np.asarray(pred.cpu())[-1] > 0
            reference = None
            if self.reference_key and self.reference_key in item:
                reference = np.asarray(item[self.reference_key].cpu())[-1] > 0
            title = stem(name)
            folder = os.path.relpath(Path(name).parent, self.source_root) if self.source_root else ""
            path = self.output_dir / folder / f"{title}_overlay.png"
            if path in self.paths:  # another scan of this name; `CaseTable` names its case so, too
                path = path.parent / Path(name).parent.name / path.name
            self.paths.add(path)
            save_overlay(
                path,
                volume.numpy(),
                np.asarray(volume.affine),
                mask,
                reference,
                title,
            )
            self.written += 1
