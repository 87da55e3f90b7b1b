# SPDX-License-Identifier: Apache-2.0
"""The handler that scores every case of an evaluation on the scan's own grid."""

from __future__ import annotations

import hashlib
import logging
import sys
from pathlib import Path

import numpy as np

from ..core.provenance import file_hash
from ..data.datasets.conversion import integer_labels
from ..io.formats import stem
from .aggregation import CaseResult, summarise
from .detection import match_case
from .overlap import case_metrics
from .pairs import on_grid, vertebra_rows
from .report import write_report
from .tables import write_tables

logger = logging.getLogger(__name__)


def command_hash() -> str:
    """SHA-256 of the command line and of every config file that it names: one run, one value."""
    digest = hashlib.sha256("\0".join(sys.argv[1:]).encode())
    for argument in sys.argv[1:]:
        for name in argument.strip("[]").split(","):
            path = Path(name.strip(" '\""))
            if path.suffix in (".yaml", ".yml", ".json") and path.is_file():
                digest.update(path.read_bytes())
    return digest.hexdigest()


class CaseTable:
    """Handler that writes the tables of ``scripts.evaluation score`` for the cases of an evaluator.

    It expects ``pred`` on the scan's own grid, its last channel the fracture, and the reference as it is stored in the batch. Where
    the case names ``vertebrae``, fractures are matched with them, and ``vertebrae.csv`` beside the datalist gives grades.

    Args:
        output_dir: folder of the tables.
        reference_key: item of the batch that holds the reference on the scan's own grid.
        ignore_index: value of the reference that marks unknown voxels.
        tolerance_mm: of the normalised surface dice.
        min_overlap: share of a fracture that must be marked, see ``summarise``.
        empty_reference: "score" or "exclude", see ``case_metrics``.
        checkpoint: weights that are evaluated; their hash goes into ``summary.json``.
        datalist: datalist that the cases come from; its hash goes there too.
        pictures: folder with a picture ``CASE_overlay.png`` per case, for the report; ``OverlayWriter`` makes them.
    """

    def __init__(
        self,
        output_dir: str,
        reference_key: str = "reference",
        ignore_index: int = 255,
        tolerance_mm: float = 1.0,
        min_overlap: float = 0.5,
        empty_reference: str = "score",
        checkpoint: str | None = None,
        datalist: str | None = None,
        pictures: str | None = None,
    ) -> None:
        self.pictures = Path(pictures) if pictures else None
        self.output_dir, self.reference_key = Path(output_dir), reference_key
        self.ignore_index, self.tolerance_mm = ignore_index, tolerance_mm
        self.min_overlap, self.empty_reference = min_overlap, empty_reference
        self.checkpoint, self.datalist = checkpoint, datalist
        self.results: list[CaseResult] = []
        self.rows: dict[str, dict[int, dict[str, str]]] = {}

    def attach(self, engine) -> None:
        """Register at an evaluator."""
        from ignite.engine import Events

        engine.add_event_handler(Events.STARTED, self._start)
        engine.add_event_handler(Events.ITERATION_COMPLETED, self._score)
        engine.add_event_handler(Events.COMPLETED, self._write)

    def _start(self, engine) -> None:
        self.results = []
        table = Path(self.datalist).parent / "vertebrae.csv" if self.datalist else None
        self.rows = vertebra_rows(table if table is not None and table.is_file() else None)

    def _score(self, engine) -> None:
        for item, source in zip(engine.state.output, engine.state.batch, strict=True):
            stored = source[self.reference_key]
            path = str(stored.meta.get("filename_or_obj", len(self.results)))
            case = stem(path)
            reference, affine = np.asarray(stored.cpu())[-1].astype(np.uint8), np.asarray(stored.affine, np.float64)
            prediction = np.asarray(item["pred"].cpu())[-1] > 0
            spacing = np.linalg.norm(affine[:3, :3], axis=0)
            metrics = case_metrics(
                prediction, reference, spacing, self.tolerance_mm, self.ignore_index, self.empty_reference
            )
            vertebrae = self._vertebrae(source.get("vertebrae"), reference, affine)
            detections = match_case(
                prediction,
                reference,
                float(np.prod(spacing)) / 1000,
                self.ignore_index,
                vertebrae,
                self.rows.get(case, {}),
            )
            if any(r.case == case for r in self.results):
                case = f"{Path(path).parent.name}/{case}"
            self.results.append(CaseResult(case, str(source.get("patient", case)), metrics, detections))

    @staticmethod
    def _vertebrae(path: object, reference: np.ndarray, affine: np.ndarray) -> np.ndarray | None:
        import nibabel as nib

        if not isinstance(path, str) or not Path(path).is_file():
            return None
        try:
            return on_grid(integer_labels(Path(path)), nib.Nifti1Image(reference, affine), Path(path), resample=False)
        except ValueError as error:
            logger.warning("%s; fractures of this case are matched without vertebrae", error)
            return None

    def _write(self, engine) -> None:
        if not self.results:
            return
        summary = summarise(self.results, self.min_overlap)
        facts: dict[str, object] = {
            "tolerance_mm": self.tolerance_mm,
            "empty_reference": self.empty_reference,
            "confidence": "volume in ml",
            "command_sha256": command_hash(),
        }
        for name, path in (("checkpoint", self.checkpoint), ("datalist", self.datalist)):
            if path and Path(path).is_file():
                facts |= {name: str(path), f"{name}_sha256": file_hash(path)}
        write_tables(self.output_dir, self.results, summary, self.min_overlap, facts)
        drawn = {r.case: self.pictures / f"{r.case}_overlay.png" for r in self.results} if self.pictures else {}
        write_report(self.output_dir, self.results, summary, self.min_overlap, facts, pictures=drawn)
        for section, rows in summary.sections.items():
            for name, estimate in rows.items():
                engine.state.metrics[
                    f"{section.removeprefix('cases: ')}_{name}".replace(", ", "_").replace(" ", "_")
                ] = estimate.value
