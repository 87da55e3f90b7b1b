# SPDX-License-Identifier: Apache-2.0
"""``instances``: vertebra instances of any tool against references, without fractures."""

from __future__ import annotations

import json
from collections.abc import Collection
from dataclasses import asdict, dataclass, field
from functools import wraps
from pathlib import Path

import numpy as np
from tqdm import tqdm

from ..core.errors import InputError, first_line
from ..core.files import write_table, write_text
from ..core.provenance import versions
from ..data.datalist import load_datalist
from ..data.patients import patients_by_pattern
from ..io.case_naming import names_in_outputs
from .inference_output import read_instances
from .instances import INSTANCE_DEFINITIONS, INSTANCE_RULES, PARTIAL_RULES, InstanceMatching, match_instances
from .pairs import instances_by_name, on_reference_grid
from .statistics import Estimate
from .tables import ESTIMATE_COLUMNS, section_rows
from .vertebra_decisions import CaseVertebrae
from .vertebra_summary import instance_estimates
from .vertebra_tables import INSTANCE_COLUMNS, SCAN_COLUMNS, SCANS, instance_rows, scan_row

MAX_SCANS = 40  # rows of the table of scans in the summary


@dataclass
class InstanceScores:
    """Result of ``score_instances``; its text is the summary as Markdown.

    Attributes:
        matchings: instances by case.
        estimates: precision, recall, F1, segmentation and panoptic quality, DSC per vertebra and of all together, with intervals
            over patients.
        problems: one line per case that could not be scored.
        out: folder of the tables, or None.
    """

    matchings: dict[str, InstanceMatching]
    estimates: dict[str, Estimate]
    problems: list[str] = field(default_factory=list)
    out: Path | None = None

    @property
    def scans(self) -> list[dict[str, object]]:
        """One row per scan: numbers of vertebrae and instances, and the DSC of all vertebrae as one mask."""
        return [scan_row(name, m) for name, m in self.matchings.items()]

    def __str__(self) -> str:
        lines = [INSTANCE_RULES, "", f"| {' | '.join(('vertebra instances', *ESTIMATE_COLUMNS))} |", "| --- " * 5 + "|"]
        lines += [f"| {' | '.join(cells)} |" for cells in section_rows("vertebra instances", self.estimates)]
        if len(self.matchings) <= MAX_SCANS:
            lines += ["", f"| {' | '.join(c.replace('_', ' ') for c in SCAN_COLUMNS)} |", "| --- " * len(SCAN_COLUMNS) + "|"]
            lines += [f"| {' | '.join('-' if v is None else str(v) for v in row.values())} |" for row in self.scans]
        lines += [f"\n**{len(self.problems)} case(s) could not be scored.**"] if self.problems else []
        return "\n".join(lines) + "\n"


def _references(
    source: str, section: str, patient: str | None, predicted: Collection[str]
) -> tuple[dict[str, tuple[Path, str]], list[str]]:
    """Instance mask and patient by canonical name, and one line for each name that cannot be used.

    Of the names that a case may have, that of its prediction is chosen, from ``predicted``.
    """
    path = Path(source) / "datalist.json" if (Path(source) / "datalist.json").is_file() else Path(source)
    found: dict[str, tuple[Path, str]] = {}
    if path.suffix == ".json":
        entries = [entry for entry in load_datalist(str(path), section) if entry.get("vertebrae")]
        if not entries:
            raise InputError(f"{path}: section {section!r} contains no case with vertebrae; choose another with --section")
        repeated: list[str] = []
        for entry, names in zip(entries, names_in_outputs([e.get("image") or e["vertebrae"] for e in entries]), strict=True):
            name = next((n for n in names if n in predicted), names[0])
            if name in found:
                repeated.append(f"{entry['vertebrae']}: has the name {name}, as {found[name][0]}; rename one of the images")
                continue
            found[name] = (Path(entry["vertebrae"]), str(entry.get("patient") or name))
        return found, repeated
    files, problems = instances_by_name(path)
    patients = patients_by_pattern(files, patient) if patient else {}
    return {name: (file, patients.get(name, name)) for name, file in files.items()}, problems


def score_instances(
    predictions: str,
    references: str,
    out: str | None = None,
    section: str = "testing",
    patient: str | None = None,
    partial_vertebrae: str = "leave_out",
    resample: bool = False,
    samples: int = 2000,
    seed: int = 0,
) -> InstanceScores:
    """Score vertebra instances of any tool: precision, recall, F1, panoptic quality, DSC per vertebra and of all together.

    Writes instances.csv, scans.csv, summary.json and summary.md into OUT. A pair that cannot be scored is reported and skipped,
    and the command ends with status 1.

    Args:
        predictions: folder of instance masks in any numbering, output folder of inference, or folders of TotalSegmentator.
        references: folder of vertebra instances in VerSe's labels, or a datalist.json, which has patients.
        out: folder to write to; without it, nothing is written.
        section: section of the datalist.
        patient: pattern of the case names, see `data folder`, for references in a folder.
        partial_vertebrae: rule for instances at the border, which references need not label: leave_out or count.
        resample: resample predictions to the grid of their reference (nearest voxel) instead of rejecting a different grid.
        samples: number of bootstrap resamples.
        seed: seed of the bootstrap.

    Returns:
        Instances of every case, and estimates with intervals.

    Raises:
        InputError: for an unknown rule, missing folders, and references of which none can be scored.
    """
    if partial_vertebrae not in PARTIAL_RULES:
        raise InputError(f"partial_vertebrae={partial_vertebrae!r}: must be one of {', '.join(PARTIAL_RULES)}")
    masks, ambiguous = instances_by_name(predictions)
    listed, problems = _references(references, section, patient, masks)
    problems += ambiguous
    matchings: dict[str, InstanceMatching] = {}
    for name, (file, _) in tqdm(sorted(listed.items()), desc="scoring", unit="case"):
        try:
            if name not in masks:
                raise ValueError(f"{file}: has no prediction in {predictions} (expected {name})")
            reference = read_instances(file)
            labels = np.asarray(reference.dataobj)
            mask = on_reference_grid(read_instances(masks[name]), reference, masks[name], resample).astype(np.uint8)
            matchings[name] = match_instances(mask, labels, reference.affine, partial=partial_vertebrae)
        except Exception as error:
            line = first_line(error)
            problems.append(line if str(file) in line or str(masks.get(name)) in line else f"{masks.get(name, file)}: {line}")
    for problem in problems:
        tqdm.write(f"not scored: {problem}")
    if not matchings:
        raise InputError(problems[0] if problems else f"{references}: contains no case to score")
    estimates = instance_estimates(list(matchings.values()), [listed[n][1] for n in matchings], samples, seed)
    scores = InstanceScores(matchings, estimates, problems, Path(out) if out is not None else None)
    if scores.out is not None:
        rows = [row for name, m in matchings.items() for row in instance_rows(name, CaseVertebrae([], m))]
        write_table(scores.out / "instances.csv", rows, INSTANCE_COLUMNS)
        write_table(scores.out / SCANS, scores.scans, SCAN_COLUMNS)
        content = {
            "scored": len(matchings),
            "of": len(matchings) + len(problems),
            "not_scored": problems,
            "versions": versions(),
            "definitions": INSTANCE_DEFINITIONS,
            "partial_vertebrae": partial_vertebrae,
            "bootstrap": {"samples": samples, "seed": seed},
            "summary": {k: {f: None if v != v else v for f, v in asdict(e).items()} for k, e in estimates.items()},
        }
        write_text(scores.out / "summary.json", json.dumps(content, indent=2) + "\n")
        write_text(scores.out / "summary.md", str(scores))
    return scores


@wraps(score_instances)
def score_instances_command(*args, **kwargs) -> str:
    """Command line of ``score_instances``: text in place of the result, and status 1 where cases could not be scored."""
    result = score_instances(*args, **kwargs)
    if result.problems:
        total = len(result.matchings) + len(result.problems)
        written = f"; the others are in {result.out}" if result.out else ""
        if not result.out:
            print(result)  # scores of the others, which are written nowhere
        raise InputError(f"{len(result.problems)} of {total} cases were not scored, see above{written}")
    return str(result.out / "summary.md") if result.out else str(result)
