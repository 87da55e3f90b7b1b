# SPDX-License-Identifier: Apache-2.0
"""Handler of an evaluator that writes an overlay of every case."""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from ..core.errors import first_line
from ..io.case_naming import CaseNames
from ..io.formats import stem
from .overlay import save_overlay

logger = logging.getLogger(__name__)


class OverlayWriter:
    """Handler that writes an overlay of every case of an evaluator.

    ``pred`` must be a label map on the grid of the scan, as in ``inference.yaml`` and ``evaluate.yaml``. The CT is read again from
    its file, as the input of the network was resampled and windowed.

    Args:
        output_dir: folder of the overlays.
        reference_key: item with the reference on the grid of the scan, whose file names the overlay as in the tables of the
            evaluation, or None.
        limit: maximum number of overlays; None draws every case.
        source_root: folder below which overlays repeat the folders of their scans; empty writes all into one folder.
        cases: cases of an evaluation, whose labels name them, see ``CaseNames``.
    """

    def __init__(
        self,
        output_dir: str,
        reference_key: str | None = None,
        limit: int | None = 50,
        source_root: str = "",
        cases: Sequence[Mapping[str, str]] = (),
    ) -> None:
        from monai.transforms import LoadImage

        self.output_dir, self.source_root = Path(output_dir), source_root
        self.reference_key, self.limit, self.written = reference_key, limit, 0
        self.load = LoadImage(image_only=True)
        self.paths: set[Path] = set()
        self.names = CaseNames(cases)

    def attach(self, engine) -> None:
        """Register the handler with an evaluator."""
        from ignite.engine import Events

        engine.add_event_handler(Events.ITERATION_COMPLETED, self)

    def __call__(self, engine) -> None:
        """Write the overlays of one batch."""
        items = engine.state.output if isinstance(engine.state.output, list) else [engine.state.output]
        sources = engine.state.batch if isinstance(engine.state.batch, list) else items
        for item, source in zip(items, sources, strict=False):
            if self.limit is not None and self.written >= self.limit:
                return
            name = str(item["image"].meta.get("filename_or_obj", source))
            if not Path(name).exists():
                continue
            volume, reference = self.load(name), None
            if self.reference_key and self.reference_key in item:
                reference = np.asarray(item[self.reference_key].cpu())[-1]
            path, title = self._path(name), stem(name)
            labelled = getattr(item.get(self.reference_key), "meta", {}).get("filename_or_obj") if reference is not None else None
            if labelled is not None:
                title = self.names.name(name, str(labelled))
                path = self.output_dir / f"{title}_overlay.png"
            self.paths.add(path)
            mask = np.asarray(item["pred"].cpu())[-1]
            try:
                save_overlay(path, volume.numpy(), np.asarray(volume.affine), mask, reference, title)
            except OSError:
                raise
            except Exception as error:  # of the drawing library; the tables do not depend on it
                logger.warning("%s was not drawn: %s", path, first_line(error))
            self.written += 1

    def _path(self, name: str) -> Path:
        """Overlay of a scan; a second scan of the same name gets its folder."""
        folder = os.path.relpath(Path(name).parent, self.source_root) if self.source_root else ""
        path = self.output_dir / folder / f"{stem(name)}_overlay.png"
        return path.parent / Path(name).parent.name / path.name if path in self.paths else path
