# SPDX-License-Identifier: Apache-2.0
"""Handler that scores every case of an evaluation on the scan's own grid."""

from __future__ import annotations

import hashlib
import logging
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
from numpy.typing import NDArray

from ..core.geometry import spacing_of
from ..core.provenance import file_hash
from ..data.vertebra_table import FILE_NAME, rows_by_case, rows_of_entry
from ..io.case_naming import CaseNames
from ..io.label_maps import read_label_map
from ..postprocessing.vertebra_record import VertebraRecord
from .aggregation import CaseResult, aggregate
from .case_vertebrae import decide_case
from .detection import match_case
from .headline import result_lines
from .overlap import case_metrics
from .pairs import all_ignored, on_reference_grid
from .report import write_evaluation_report
from .tables import write_tables

logger = logging.getLogger(__name__)


def command_hash() -> str:
    """SHA-256 of the command line and of every config file in it, an identifier of the run."""
    digest = hashlib.sha256("\0".join(sys.argv[1:]).encode())
    for argument in sys.argv[1:]:
        for name in argument.strip("[]").split(","):
            path = Path(name.strip(" '\""))
            if path.suffix in (".yaml", ".yml", ".json") and path.is_file():
                digest.update(path.read_bytes())
    return digest.hexdigest()


class CaseTable:
    """Handler that writes the tables of ``scripts.evaluation score`` for the cases of an evaluator.

    It expects ``pred`` on the scan's own grid, (C, X, Y, Z) with the fracture last, and the stored reference in the batch. For
    cases with ``vertebrae`` the targets are vertebrae; grades come from ``vertebrae.csv`` in the folder of the datalist. The
    decision per vertebra is that of ``records_key`` where the output has it, else at least ``min_overlap`` of the vertebra marked.

    Args:
        output_dir: folder of the tables.
        reference_key: item of the batch with the reference on the scan's own grid.
        ignore_index: label of ignored voxels in the reference.
        tolerance_mm: tolerance in mm of the normalised surface dice.
        min_overlap: see ``aggregate``.
        empty_reference: see ``case_metrics``.
        checkpoint: evaluated weights, whose hash is written to ``summary.json``.
        datalist: datalist of the cases, whose hash is written as well.
        pictures: folder of the overlays ``CASE_overlay.png`` of ``OverlayWriter``, for the report.
        instances_key: item of the output with the vertebra instances (1, X, Y, Z) on the scan's own grid, if it has one.
        records_key: item of the output with the rows of inference, a list of ``VertebraRecord``, if it has one.
        probability_key: item of the output with the probabilities (C, X, Y, Z), fracture last, on the scan's own grid, if it has
            one; its mean over a vertebra is that of the vertebra where there are no rows.
        cases: cases of the evaluation, whose labels name them, see ``CaseNames``.
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
        instances_key: str = "vertebra_instances",
        records_key: str = "vertebra_records",
        probability_key: str = "probability",
        cases: Sequence[Mapping[str, str]] = (),
    ) -> None:
        self.instances_key, self.records_key, self.probability_key = instances_key, records_key, probability_key
        self.pictures = Path(pictures) if pictures else None
        self.output_dir, self.reference_key = Path(output_dir), reference_key
        self.ignore_index, self.tolerance_mm = ignore_index, tolerance_mm
        self.min_overlap, self.empty_reference = min_overlap, empty_reference
        self.checkpoint, self.datalist = checkpoint, datalist
        self.results: list[CaseResult] = []
        self.problems: list[str] = []
        self.names = CaseNames(cases)
        self.rows: dict[str, dict[int, dict[str, str]]] = {}

    def attach(self, engine) -> None:
        """Register at an evaluator."""
        from ignite.engine import Events

        engine.add_event_handler(Events.STARTED, self._start)
        engine.logger.setLevel(logging.WARNING)  # ignite's lines on epochs and times, of which an evaluation has none
        engine.add_event_handler(Events.ITERATION_COMPLETED, self._score)
        engine.add_event_handler(Events.COMPLETED, self._write)

    def _start(self, engine) -> None:
        self.results, self.problems = [], []
        table = Path(self.datalist).parent / FILE_NAME if self.datalist else None
        self.rows = rows_by_case(table if table is not None and table.is_file() else None)

    def _score(self, engine) -> None:
        for item, source in zip(engine.state.output, engine.state.batch, strict=True):
            stored = source[self.reference_key]
            path = str(stored.meta.get("filename_or_obj", len(self.results)))
            stored_vertebrae = source.get("vertebrae")
            image = getattr(source.get("image"), "meta", {}).get("filename_or_obj")
            files = {"label": path, "vertebrae": stored_vertebrae, "image": image}
            rows = rows_of_entry(self.rows, {k: v for k, v in files.items() if isinstance(v, str)})
            case = self.names.name(image, path)
            reference, affine = np.asarray(stored.cpu())[-1].astype(np.uint8), np.asarray(stored.affine, np.float64)
            if all_ignored(reference, self.ignore_index):
                line = f"{path}: every voxel is {self.ignore_index}, unknown; nothing can be scored, so it is left out"
                self.problems.append(line)
                logger.warning("not scored: %s", line)
                continue
            prediction = np.asarray(item["pred"].cpu())[-1] > 0
            spacing = spacing_of(affine)
            metrics = case_metrics(prediction, reference, spacing, self.tolerance_mm, self.ignore_index, self.empty_reference)
            vertebrae = self._vertebrae(stored_vertebrae, reference, affine)
            matching = match_case(prediction, reference, spacing, self.ignore_index, vertebrae, rows)
            patient, decided = str(source.get("patient", case)), None
            if vertebrae is not None:
                instances, records, probability = self._predicted(item)
                decided = decide_case(
                    case, patient, vertebrae, reference, affine, prediction, rows, instances, records, probability,
                    ignore_index=self.ignore_index, min_marked=self.min_overlap,
                )  # fmt: skip
            self.results.append(CaseResult(case, patient, metrics, matching, decided))

    def _predicted(
        self, item: Mapping[str, Any]
    ) -> tuple[NDArray[np.uint8] | None, list[VertebraRecord] | None, NDArray[np.float32] | None]:
        """Instances, rows and probabilities of the output, None for what it lacks."""
        instances, probability = item.get(self.instances_key), item.get(self.probability_key)
        labels = None if instances is None else np.asarray(instances.cpu())[-1].astype(np.uint8)
        return labels, item.get(self.records_key), None if probability is None else np.asarray(probability.cpu())[-1]

    @staticmethod
    def _vertebrae(path: object, reference: NDArray, affine: NDArray) -> NDArray | None:
        if not isinstance(path, str) or not Path(path).exists():
            return None
        image = nib.Nifti1Image(reference, affine)
        try:
            return on_reference_grid(read_label_map(path), image, Path(path), resample=False)
        except ValueError as error:
            logger.warning("%s; fractures of this case are matched without vertebrae", error)
            return None

    def _write(self, engine) -> None:
        if not self.results:
            return
        summary = aggregate(self.results, self.min_overlap)
        provenance: dict[str, object] = {
            "tolerance_mm": self.tolerance_mm,
            "empty_reference": self.empty_reference,
            "confidence": "volume in ml",
            "command_sha256": command_hash(),
        }
        for name, path in (("checkpoint", self.checkpoint), ("datalist", self.datalist)):
            if path and Path(path).is_file():
                provenance |= {name: str(path), f"{name}_sha256": file_hash(path)}
        write_tables(self.output_dir, self.results, summary, self.min_overlap, provenance, self.problems)
        drawn = {r.case: self.pictures / f"{r.case}_overlay.png" for r in self.results} if self.pictures else {}
        page = write_evaluation_report(
            self.output_dir, self.results, summary, self.min_overlap, provenance, self.problems, pictures=drawn
        )
        for name, words in result_lines(summary):
            logger.info("%s: %s", name, words)
        logger.info("report: %s", page)
        for section, rows in summary.sections.items():
            for name, estimate in rows.items():
                key = f"{section.removeprefix('cases: ')}_{name}".replace(", ", "_").replace(" ", "_")
                engine.state.metrics[key] = estimate.value
