# SPDX-License-Identifier: Apache-2.0
"""One run of a benchmark on VerSe: the scans segmented, and every graded vertebra with the decision of the network."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from ..core.errors import first_line
from ..core.files import read_table
from ..core.vertebrae import spine_order
from ..data.datalist import write_datalist
from ..data.datasets.grades import fracture_mask, grade_attributes
from ..inference.segment import segment
from ..io.label_maps import read_label_map
from ..postprocessing.vertebra_record import VertebraRecord, record_from_row
from .case_vertebrae import decide_case
from .inference_output import read_instances, records_by_value
from .pairs import on_reference_grid
from .verse_cases import BenchmarkCase
from .vertebra_decisions import CaseVertebrae, VertebraDecision

DATALIST = "scans.json"


@dataclass(frozen=True)
class FlaggedInstance:
    """Flagged instance that matches no vertebra of the reference.

    Attributes:
        case: name of the case.
        instance: value in the instance mask.
        probability: probability of a fracture.
        result: "false positive", or the reason for which instances leave it out, such as a vertebra that the border cuts.
    """

    case: str
    instance: int
    probability: float
    result: str


@dataclass
class BenchmarkRun:
    """Decisions of a network on VerSe.

    Attributes:
        name: origin of the instances.
        folder: output folder of inference.
        cases: vertebrae by case, for cases that were segmented and read.
        problems: one line by case that was not.
        unmatched: flagged instances without a vertebra of the reference, which no rate counts.
        without_probability: number of instances that the network gave no probability.
    """

    name: str
    folder: Path
    cases: dict[str, CaseVertebrae] = field(default_factory=dict)
    problems: dict[str, str] = field(default_factory=dict)
    unmatched: list[FlaggedInstance] = field(default_factory=list)
    without_probability: int = 0

    @property
    def decisions(self) -> list[VertebraDecision]:
        """Decisions of all cases."""
        return [d for case in self.cases.values() for d in case.decisions]


def segment_scans(
    cases: Sequence[BenchmarkCase], folder: Path, with_masks: bool, options: Mapping[str, Any]
) -> tuple[dict[str, dict], dict[str, str]]:
    """Segment the CTs; finished ones of an earlier call with the same weights and settings are not repeated.

    Args:
        cases: cases with CT and mask.
        folder: output folder of inference.
        with_masks: pass the masks of the reference as instances; else the network separates the vertebrae.
        options: further arguments of ``segment``.

    Returns:
        Result of inference by case, and one line by case that could not be segmented.

    Raises:
        InputError: when nothing can start, or no scan could be segmented.
    """
    names = {os.path.abspath(str(c.ct)): c.name for c in cases}
    masks = {c.name: {"vertebrae": os.path.abspath(str(c.mask))} if with_masks else {} for c in cases}
    entries = [{"image": image, **masks[name]} for image, name in names.items()]
    datalist = folder / DATALIST
    write_datalist(datalist, {"testing": entries}, "Scans of a benchmark on VerSe.")
    results = {names[r["input"]]: r for r in segment(str(datalist), out=str(folder), section="testing", **options)}
    table = folder / "problems.csv"
    reported = {row["input"]: row["problem"] for row in read_table(table)} if table.is_file() else {}
    problems = {name: reported.get(image, f"{image}: was not segmented") for image, name in names.items() if name not in results}
    return results, problems


def _with_probability(decision: VertebraDecision) -> VertebraDecision:
    """Decision whose instance ranks with probability 0 where the network gave it none."""
    lacks = decision.record is not None and not decision.missed and np.isnan(decision.probability)
    return replace(decision, probability=0.0) if lacks else decision


def _flagged_without_vertebra(
    case: str, vertebrae: CaseVertebrae, instances: NDArray[np.uint8], records: Sequence[VertebraRecord], source: Path
) -> list[FlaggedInstance]:
    """Flagged instances of a case that match no vertebra of the reference."""
    matching = vertebrae.instances
    assert matching is not None  # there are instances
    matched = {p.predicted for p in matching.pairs}
    return [
        FlaggedInstance(case, value, r.fracture_probability, matching.left_out.get(value, "false positive"))
        for value, r in records_by_value(records, instances, source).items()
        if r.fractured and value not in matched
    ]


def case_decisions(case: BenchmarkCase, result: Mapping[str, Any], folder: Path) -> tuple[CaseVertebrae, list[FlaggedInstance]]:
    """Match the instances of one case with its reference and take over their decisions.

    Args:
        case: files and grades; receives the labels of its mask.
        result: result of inference.
        folder: output folder of inference.

    Returns:
        Decisions and instances, and flagged instances without a vertebra of the reference.

    Raises:
        ValueError: for a mask that cannot be read, or one of another grid.
    """
    reference, base = read_label_map(Path(str(case.mask))), folder / str(result["case_path"])
    labels, grades = np.asarray(reference.dataobj), case.grades or {}
    case.set_labels(spine_order(labels))
    rows = {k: {n: str(v) for n, v in row.items()} for k, row in grade_attributes(grades).items()}
    marked_file, instance_file = (base.with_name(f"{base.name}_{kind}.nii.gz") for kind in ("fracture", "vertebrae"))
    marked = on_reference_grid(read_label_map(marked_file), reference, marked_file, resample=False) > 0
    instances = records = None
    if "vertebrae" in result:
        instances = on_reference_grid(read_instances(instance_file), reference, instance_file, resample=False).astype(np.uint8)
        records = [record_from_row(row) for row in result["vertebrae"]]
    classes = fracture_mask(labels, grades)
    assert classes is not None  # unknown vertebrae are ignored, not refused
    vertebrae = decide_case(
        case.name, case.patient, labels, classes, reference.affine, marked, rows, instances, records, source=instance_file
    )
    if instances is None or records is None:
        return vertebrae, []
    return vertebrae, _flagged_without_vertebra(case.name, vertebrae, instances, records, instance_file)


def run_benchmark(
    name: str, cases: Sequence[BenchmarkCase], folder: Path, with_masks: bool, options: Mapping[str, Any]
) -> BenchmarkRun:
    """Segment all cases and decide on every vertebra; a case that fails costs that case.

    Args:
        name: origin of the instances.
        cases: cases with CT, mask and grades.
        folder: output folder of inference.
        with_masks: see ``segment_scans``.
        options: further arguments of ``segment``.
    """
    results, problems = segment_scans(cases, folder, with_masks, options)
    run = BenchmarkRun(name, folder, problems=problems)
    for case in tqdm([c for c in cases if c.name in results], desc=f"scoring, {name}", unit="case"):
        try:
            vertebrae, unmatched = case_decisions(case, results[case.name], folder)
        except Exception as error:
            run.problems[case.name] = first_line(error)
            tqdm.write(f"not scored: {case.name}: {first_line(error)}")
            continue
        decisions = [_with_probability(d) for d in vertebrae.decisions]
        run.without_probability += sum(d is not old for d, old in zip(decisions, vertebrae.decisions, strict=True))
        run.unmatched += unmatched
        run.cases[case.name] = replace(vertebrae, decisions=decisions)
    return run
