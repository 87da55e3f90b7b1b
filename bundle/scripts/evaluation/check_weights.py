# SPDX-License-Identifier: Apache-2.0
"""``check-weights``: agreement of the weights with themselves on unlabelled scans, share of vertebrae seen, HU statistics."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tqdm import tqdm

from ..core.errors import InputError, first_line
from ..core.files import atomic_write, ensure_same_settings, write_text
from ..core.provenance import file_hash
from ..inference.case_names import proposed_names, scan_hash
from ..inference.cohort import Segmenter
from ..inference.config import read_config
from ..inference.discovery import parts_of
from ..inference.inputs import find_inputs, same_output
from ..inference.pipeline import Pipeline
from ..io.formats import VOLUMES
from ..visualization.html_report import png
from .domain_perturbations import ORIGINAL, perturbations
from .domain_plots import hu_histogram, passes, probabilities
from .domain_report import terminal_table, write_page, write_tables
from .domain_scan import ScanCheck, check_scan
from .domain_verdicts import ACCURACY

DPI = 80


def _scans(path: str, section: str, limit: int | None) -> tuple[list[dict[str, str]], list[str]]:
    """Scans with their names, and one line for each that shares its name with another."""
    if limit is not None and limit < 1:
        raise InputError(f"limit={limit}: must be a number of scans of at least 1")
    cases = find_inputs(path, section)
    if not cases:
        raise InputError(
            f"{path}: contains no scan; must be a file ({', '.join(VOLUMES)}), the folder of a DICOM series, a folder of these, "
            "or a datalist.json"
        )
    twins = same_output(cases)
    for case, name in zip(cases, proposed_names(cases), strict=True):
        case["name"] = name
    return [c for c in cases if c["image"] not in twins][:limit], list(twins.values())


def _pipeline(segmenter: Segmenter) -> Pipeline:
    """Pipeline of the config, whose networks must separate vertebrae."""
    for name in (c for files in segmenter.checkpoints.values() for c in files):
        if not Path(name).is_file():
            raise InputError(f"{name}: no such checkpoint; train first or set `checkpoint` to a file with weights")
    pipeline = segmenter.pipeline()
    if not pipeline.by_vertebra:
        name = next(iter(segmenter.checkpoints.values()))[0]
        raise InputError(
            f"{name}: has no outputs of vertebra and body, or decision is not vertebra; the checks compare vertebrae, so use "
            "weights with these outputs and decision: vertebra"
        )
    return pipeline


def _settings(segmenter: Segmenter) -> dict[str, Any]:
    """Settings that determine the result of a scan."""
    return {
        "checkpoints": {p: [file_hash(c) for c in files] for p, files in segmenter.checkpoints.items()},
        "window": {k: v for k, v in segmenter.patch.__dict__.items() if k not in ("weights", "sw_batch_size")},
        "search": segmenter.search,
        "post": dict(segmenter.post.__dict__),
        "runtime": {k: str(v) for k, v in segmenter.runtime.items()},
    }


def _finished(path: Path, digest: str) -> dict[str, Any] | None:
    """Result of an earlier run on the same file, or None."""
    try:
        result = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return result if isinstance(result, dict) and result.get("input_sha256") == digest else None


def _draw(out: Path, name: str, check: ScanCheck, threshold: float) -> None:
    figures = {
        "passes": passes(check.panels, check.spacing),
        "probabilities": probabilities(check.probabilities, threshold),
        "hu": hu_histogram(check.counts),
    }
    for kind, figure in figures.items():
        path = out / "pictures" / f"{name}_{kind}.png"
        path.unlink(missing_ok=True)  # of an earlier scan of this name
        if figure is not None:
            with atomic_write(path) as temporary:
                temporary.write_bytes(png(figure, DPI))


def _run(
    cases: Sequence[Mapping[str, str]], pipeline: Pipeline, out: Path, expect_hu: bool, number: int
) -> tuple[list[dict[str, Any]], list[str]]:
    """Check scans one after another; a failure ends only its own scan."""
    results: list[dict[str, Any]] = []
    problems: list[str] = []
    with tqdm(total=len(cases) * number, unit="pass") as bar:
        for position, case in enumerate(cases):
            bar.n = position * number
            source, name = case["image"], case["name"]

            def step(text: str, name: str = name) -> None:
                bar.set_description(f"{name}: {text}")
                bar.update(1)

            try:
                if "problem" in case:
                    raise ValueError(case["problem"])
                digest, path = scan_hash(case), out / "cases" / f"{name}.json"
                result = _finished(path, digest)
                if result is None:
                    check = check_scan(source, pipeline, expect_hu, step, parts_of(case))
                    _draw(out, name, check, pipeline.post.threshold)
                    facts = {"case_path": name, "input": source, "input_sha256": digest}
                    result = {**facts, **check.as_json()}
                    write_text(path, json.dumps(result, indent=1) + "\n")
                results.append(result)
            except Exception as error:  # as of inference, of whatever kind
                problems.append(_problem(error, source))
                tqdm.write(problems[-1])
    return results, problems


def _problem(error: BaseException, source: str) -> str:
    """One line with the scan and the reason."""
    if isinstance(error, MemoryError):
        return f"{source}: not enough memory; crop the scan"
    line = first_line(error)
    return line if line.startswith(source) else f"{source}: {line}"


def check_weights(
    scans: str,
    *,
    out: str,
    checkpoint: str | Sequence[str] | None = None,
    config: str | Sequence[str] | None = None,
    device: str | None = None,
    section: str = "testing",
    limit: int | None = None,
    runtime: str | None = None,
    sw_batch_size: int | None = None,
) -> list[dict[str, Any]]:
    """Check on unlabelled CT scans whether the weights are stable, before they are trusted on a new scanner. Research use only.

    Every scan is segmented as it is and again after changes that leave the anatomy as it is: mirrored, shifted by half a voxel,
    with more noise, with thicker slices, slightly rotated; about ten passes of inference per scan. Stability is not accuracy.
    Writes into OUT: report.html, checks.csv, agreement.csv, summary.json, pictures/, and cases/ by which a rerun resumes.

    Args:
        scans: NIfTI, NRRD or MHA file, folder of one DICOM series, folder of these, or datalist.json.
        out: folder of the results.
        checkpoint: weights (.pt) or an exported model (.ts, .onnx, .xml); a list is an ensemble; models/model.pt of the bundle by
            default.
        config: overlay of the inference config, or a list of them, as for segment.
        device: PyTorch device: cpu, cuda or cuda:1.
        section: section of a datalist.
        limit: number of scans that are checked, the first by name; all by default.
        runtime: inference backend: auto, torch, openvino or onnxruntime.
        sw_batch_size: windows per batch.

    Returns:
        One dictionary per scan, as in OUT/cases/NAME.json: ``verdict``, ``checks`` (group, name, value, verdict, reason),
        ``agreement`` (by pass), ``coverage``, ``hu``, ``fracture_probability`` (by vertebra and pass).

    Raises:
        InputError: when nothing can start; after all other scans when some could not be checked, one line for each.
    """
    root = Path(out)
    cases, problems = _scans(scans, section, limit)
    values = {
        "input": str(scans), "output": str(out), "checkpoint": checkpoint, "device": device, "section": section,
        "runtime": runtime, "sw_batch_size": sw_batch_size,
    }  # fmt: skip
    segmenter: Segmenter = read_config(config, values).get_parsed_content("segmenter")
    pipeline = _pipeline(segmenter)
    settings = _settings(segmenter)
    (root / "cases").mkdir(parents=True, exist_ok=True)
    ensure_same_settings(root, settings)
    every = [ORIGINAL, *perturbations((1.0, 1.0, 1.0), 0.0, list(pipeline.runners))]
    print(f"{len(cases)} scan(s), up to {len(every)} passes of inference each: up to {len(cases) * len(every)} in all")
    results, failed = _run(cases, pipeline, root, segmenter.expect_hu, len(every))
    problems += failed
    if results:
        provenance = {k: json.dumps(v, default=str) for k, v in settings.items()}
        write_tables(root, results, problems, settings)
        page = write_page(root, results, problems, provenance, {p.name: p.meaning for p in every})
        print(terminal_table(results), f"{ACCURACY} For research use only.", page, sep="\n")
    if problems:
        raise InputError("\n".join([*problems, f"{len(problems)} scan(s) could not be checked"]))
    return results
