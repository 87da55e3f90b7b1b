# SPDX-License-Identifier: Apache-2.0
"""Segmentation of many scans: input list, distribution over processes, resume, tables and report."""

from __future__ import annotations

import copy
import hashlib
import json
import logging
import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from tempfile import TemporaryFile

import torch
from torch import nn
from tqdm import tqdm

from ..core.config_values import require_values
from ..core.errors import InputError, first_line
from ..core.files import is_full, remove_stale
from ..core.provenance import file_hash
from ..io.dicom import load_itk, load_packages
from ..io.formats import NIFTI, file_suffix
from ..io.geometry_rules import GeometryRules
from ..postprocessing.findings import PostProcessing
from .case import Outputs, segment_case
from .case_names import name_cases, read_records, scan_hash, stamp
from .concurrency import Cancellation, MemoryBudget, map_concurrently
from .discovery import Scans, parts_of, printable
from .distributed_shard import DistributedShard
from .earlier_files import record_path
from .given_vertebrae import pair_vertebrae
from .inputs import find_inputs, require_cases
from .joined_folders import holds, replaced_inputs, without_parts
from .memory import parse_bytes, program_bytes
from .picture_library import load_beside
from .pipeline import Pipeline
from .predict import PLANES, PatchConfig
from .progress import ProgressBar
from .runtimes import Runner, gpu_full, load_runner, resolve_precision
from .segmented import Segmented, no_checkpoint
from .tables import Account, earlier_problems, finished_cases, line, summarise

logger = logging.getLogger(__name__)
Checkpoint = str | Sequence[str] | Mapping[str, str | Sequence[str]]

NO_MASKS = "none"  # value of ``vertebrae`` that leaves out the masks of a datalist


def _problem(error: BaseException, source: str, folder: Path) -> str:
    """One line with the scan, the reason and the remedy."""
    if isinstance(error, FileNotFoundError) and not Path(source).exists():
        return f"{source}: does not exist; correct the path"
    if isinstance(error, OSError) and is_full(error):
        return f"{source}: {error.filename or folder}: No space left on device; free some space, or choose another output"
    if isinstance(error, OSError) and error.strerror:
        if str(error.filename or "").startswith(source):
            return f"{error.filename}: cannot be read ({error.strerror}); change its permissions, or copy the scan again"
        return f"{source}: {error.filename or folder}: {error.strerror}; free some space, or choose another output"
    if isinstance(error, MemoryError):
        return f"{source}: not enough memory; set max_memory, or a smaller sw_batch_size"
    text = first_line(error)
    if isinstance(error, ValueError) and source in text:
        return text
    if isinstance(error, (ValueError, RuntimeError)):
        return f"{source}: {text}"
    return f"{source}: cannot be processed ({type(error).__name__}: {text}); export the scan again, or leave it out"


def _input_stamp(case: Mapping[str, str]) -> list[int]:
    """Stamps of a scan and of its given mask of vertebrae, which decides what is a vertebra."""
    return stamp(case["image"], parts_of(case)) + _mask_stamp(case)


def _mask_stamp(case: Mapping[str, str]) -> list[int]:
    mask = case.get("vertebrae")
    return stamp(mask) if mask and Path(mask).exists() else []


class Segmenter:
    """Segmentation of scans with one or several networks.

    Args:
        network: network of the config.
        checkpoint: weights or an exported model; a list is an ensemble whose probabilities are averaged; a dictionary has one entry
            per plane.
        input: scan, folder or datalist, see ``inputs.find_inputs``.
        output: folder of the results.
        channels: channels of the network's input without neighbouring slices.
        window: arguments of ``PatchConfig``.
        planes: planes of the slices of a 2D network; the probabilities of several are averaged.
        search: arguments ``spacing``, ``search``, ``coarse_mm``, ``coarse_threshold`` and ``cortex_mm`` of ``Pipeline``.
        post: arguments of ``PostProcessing``.
        outputs: arguments of ``Outputs``.
        runtime: arguments ``runtime``, ``device``, ``precision``, ``amp`` and ``compiled`` of ``load_runner``.
        vertebrae: mask of vertebra instances of a single scan, or a folder of masks named like the scans, see ``pair_vertebrae``;
            "none" for no masks, not those of a datalist either.
        section: section of a datalist.
        expect_hu: reject scans whose values are not HU.
        geometry: arguments of ``GeometryRules``.
        max_memory: memory limit, such as "4G"; scans that need more are held in a temporary file, or rejected.
        overwrite: segment finished scans again.
        concurrent_scans: scans in progress at the same time: some are read or written while the networks predict one.
        cases: scans as ``find_inputs`` returns them; None: those of ``input``.

    Raises:
        InputError: for a value out of range, with the remedy.
    """

    def __init__(
        self,
        network: nn.Module,
        checkpoint: Checkpoint,
        input: str,
        output: str,
        channels: int = 1,
        window: Mapping | None = None,
        planes: Sequence[str] = ("sagittal",),
        search: Mapping | None = None,
        post: Mapping | None = None,
        outputs: Mapping | None = None,
        runtime: Mapping | None = None,
        vertebrae: str | None = None,
        section: str = "testing",
        expect_hu: bool = True,
        geometry: Mapping | None = None,
        max_memory: str | float | None = None,
        overwrite: bool = False,
        cases: Sequence[Mapping[str, str]] | None = None,
        concurrent_scans: int = 1,
    ) -> None:
        try:
            require_values({"concurrent_scans": concurrent_scans})
            self.patch = PatchConfig.from_config(window or {"size": (256, 256)})
            self.post = PostProcessing.from_config(post or {})
            self.outputs = Outputs(**dict(outputs or {}))
            self.limit = parse_bytes(max_memory)
            self.geometry = GeometryRules(**dict(geometry or {}))
        except (TypeError, ValueError) as error:
            raise InputError(str(error)) from None
        is_2d = len(self.patch.size) == 2
        self.planes = [planes] if isinstance(planes, str) else list(planes)
        if is_2d and (not self.planes or any(p not in PLANES for p in self.planes)):
            raise InputError(f"planes={planes!r}: must be one or more of {', '.join(PLANES)}")
        self.checkpoints = self._by_plane(checkpoint, self.planes if is_2d else ["volume"])
        self.network, self.channels = network, channels
        self.search, self.runtime = dict(search or {}), dict(runtime or {})
        self.input, self.output, self.vertebrae, self.section = input, Path(output), vertebrae, section
        self.expect_hu, self.overwrite, self.cases = expect_hu, overwrite, cases
        self.concurrent_scans = concurrent_scans
        try:  # before weights are read and compiled
            Pipeline({plane: [] for plane in self.checkpoints}, self.patch, self.post, channels=channels, **self.search)
        except (TypeError, ValueError) as error:
            raise InputError(str(error)) from None

    @staticmethod
    def _by_plane(checkpoint: Checkpoint, planes: Sequence[str]) -> dict[str, list[str]]:
        if isinstance(checkpoint, Mapping):
            missing = [p for p in planes if p not in checkpoint]
            if missing:
                raise InputError(f"checkpoint: has no entry for the plane {missing[0]}; every plane must have one")
            chosen = {p: checkpoint[p] for p in planes}
        else:
            chosen = dict.fromkeys(planes, checkpoint)
        return {p: [c] if isinstance(c, str) else [str(x) for x in c] for p, c in chosen.items()}

    def _runners(self) -> dict[str, list[Runner]]:
        """Load every checkpoint once; planes with the same checkpoint share its runner."""
        shape = (self.channels * self.patch.num_context_slices, *self.patch.size)
        loaded: dict[str, Runner] = {}
        for name in dict.fromkeys(c for files in self.checkpoints.values() for c in files):
            network = copy.deepcopy(self.network) if loaded else self.network
            loaded[name] = load_runner(network, name, shape, batch_size=self.patch.sw_batch_size, **self.runtime)
            loaded[name](torch.zeros(self.patch.sw_batch_size, *shape))  # its memory counts before the first scan
        return {plane: [loaded[c] for c in files] for plane, files in self.checkpoints.items()}

    def pipeline(self) -> Pipeline:
        """Load the networks and build the pipeline.

        Raises:
            InputError: for a missing checkpoint, one of another network, or a value out of range.
        """
        try:
            return Pipeline(self._runners(), self.patch, self.post, channels=self.channels, **self.search)
        except (TypeError, ValueError) as error:
            raise InputError(str(error)) from None
        except torch.cuda.OutOfMemoryError as error:
            raise InputError(gpu_full(error)) from None

    def _find_cases(self) -> Scans:
        found = find_inputs(self.input, self.section) if self.cases is None else self.cases
        cases = Scans((dict(c) for c in found), getattr(found, "unused", ()))
        require_cases(cases, self.input, self.section)
        for text in name_cases(cases, self.output):
            tqdm.write(f"note: {text}")
        if self.vertebrae == NO_MASKS:
            for case in cases:
                case.pop("vertebrae", None)
        elif self.vertebrae is None and any("vertebrae" in c for c in cases):
            tqdm.write(f"note: vertebrae are those of the masks in {self.input}; --vertebrae {NO_MASKS} finds them by the network")
        elif self.vertebrae is not None:
            masks, reasons = pair_vertebrae([c["image"] for c in cases if "problem" not in c], str(self.vertebrae))
            for case in cases:
                if case["image"] in masks:
                    case["vertebrae"] = masks[case["image"]]
                elif case["image"] in reasons:
                    case["problem"] = reasons[case["image"]]
        return cases

    def _settings(self) -> dict:
        """Settings that determine the result of a scan."""
        hashes = {c: file_hash(c) for files in self.checkpoints.values() for c in files if Path(c).is_file()}
        return {
            "checkpoints": {p: [hashes.get(c, c) for c in files] for p, files in self.checkpoints.items()},
            "window": {k: v for k, v in self.patch.__dict__.items() if k not in ("weights", "sw_batch_size")},
            "search": self.search,
            "post": dict(self.post.__dict__),
            "runtime": {k: str(v) for k, v in self.runtime.items()} | {"precision": self._precision()},
            "expect_hu": self.expect_hu,
            "geometry": asdict(self.geometry),
        }

    def _precision(self) -> str:
        """Precision of this machine's results, so that those of two CPUs are not mixed."""
        return resolve_precision(str(self.runtime.get("precision", "auto")), self.runtime.get("device", "cpu"))

    def _finished(self, case: Mapping[str, str], digest: str) -> dict | None:
        """Result of an earlier run with the same settings on the same file."""
        base = self.output / case["name"]
        path = record_path(base)
        if self.overwrite or "problem" in case or not path.is_file():
            return None
        try:
            result = json.loads(path.read_text(encoding="utf-8"))
        except ValueError:
            return None
        if not isinstance(result, dict):
            return None
        if result.get("settings") != digest:
            raise InputError(
                f"{path}: was created with other settings or weights; choose another output folder, or set overwrite to true"
            )
        stored = result.get("input_stamp")
        unchanged = "sha256" in case and isinstance(stored, list) and stored[3:] == _mask_stamp(case)
        masks = ["_fracture.nii.gz", *(["_vertebrae.nii.gz"] if "vertebrae" in result else [])]
        endings = [] if self.outputs.statistics_only else masks
        endings += ["_probability.nii.gz"] if self.outputs.save_probabilities else []
        complete = all(base.with_name(base.name + ending).is_file() for ending in endings)
        return {**result, "input": os.path.abspath(case["image"])} if unchanged and complete else None

    def _check_settings(self, cases: Sequence[Mapping[str, str]], digest: str) -> None:
        """Name scans of the output folder that are not of this run and have other settings, which no table can hold together.

        Raises:
            InputError: unless ``overwrite`` is set, with which they stay but are left out of the tables.
        """
        named = {case["name"] for case in cases}
        others = [n for n, r in read_records(self.output).items() if n not in named and r.get("settings") != digest]
        if not others:
            return
        shown = ", ".join(others[:3]) + (f" and {len(others) - 3} more" if len(others) > 3 else "")
        text = f"{self.output}: has results of {len(others)} other scan(s) with other settings or weights ({shown})"
        if not self.overwrite:
            raise InputError(f"{text}; choose another output folder, or set overwrite to true to leave them out of the tables")
        tqdm.write(f"note: {text}; they stay but are left out of the tables")

    def _check_files(self, cases: Sequence[Mapping[str, str]]) -> None:
        for folder in (f for case in cases for f in (case["image"], *parts_of(case)) if Path(f).is_dir()):
            if holds(Path(folder), self.output):
                raise InputError(f"{self.output}: is the folder of a DICOM series; choose an output outside of it")
        try:
            self.output.mkdir(parents=True, exist_ok=True)
            with TemporaryFile(dir=self.output):  # without a name that a second process would share
                pass
            for path in remove_stale(self.output):
                tqdm.write(f"note: {path}: temporary file of a run that was killed; removed")
        except OSError as error:
            raise InputError(f"{self.output}: cannot be written to ({error.strerror}); choose another output") from None
        for file in (f for files in self.checkpoints.values() for f in files):
            if not Path(file).is_file():
                raise InputError(no_checkpoint(file))

    def run(self, strict: bool = False) -> Segmented:
        """Segment all scans; failures are isolated per scan.

        Args:
            strict: end the process with status 1 where a scan could not be segmented, after the others and their tables.

        Returns:
            Results, as in ``cases/*.json``, and the scans that could not be segmented.

        Raises:
            InputError: when nothing can start, or no scan could be segmented; with ``strict`` also when some could not.
        """
        from ..training.preflight import check_command

        check_command()
        cases = self._find_cases()
        self._check_files(cases)
        settings = self._settings()
        digest = hashlib.sha256(json.dumps(settings, sort_keys=True, default=str).encode()).hexdigest()
        finished = {c["name"]: r for c in cases if (r := self._finished(c, digest)) is not None}
        self._check_settings(cases, digest)
        with DistributedShard() as shard:
            remaining = shard.part([c for c in cases if c["name"] not in finished])
            results, problems = self._segment(remaining, digest, shard)
            results, problems = shard.gather(results), shard.gather(problems)
            if shard.first:
                # All results of the folder, so that scans that are segmented one by one share tables and report.
                folder = finished_cases(self.output, digest) | finished | {r["case_path"]: r for r in results}
                kept, left_out = without_parts(folder, {c["name"] for c in cases})
                ordered = sorted(kept.values(), key=lambda r: r["case_path"])
                reused = len(kept.keys() - {r["case_path"] for r in results})
                account = Account(len(cases), len(results), len(finished), len(problems), tuple(cases.unused))
                for text in (*cases.unused_lines(), *(f"note: {reason}" for reason in left_out)):
                    tqdm.write(text)
                listed = [*earlier_problems(self.output, replaced_inputs(cases, kept.values()), folder), *problems]
                tqdm.write(summarise(self.output, ordered, listed, settings, printable(self.input), reused, account))
            shard.wait()  # torchrun ends all processes where the first of them fails, such as for a scan without a result
        results = sorted([*finished.values(), *results], key=lambda r: r["case_path"])
        if not results and problems:
            raise InputError("\n".join([*(p["problem"] for p in problems), "no scan could be segmented"]))
        if strict and problems:
            raise InputError(f"{len(problems)} of {len(cases)} scan(s) could not be segmented; {self.output / 'problems.csv'}")
        return Segmented(results, problems)

    def _segment(self, cases: Sequence[dict[str, str]], digest: str, shard: DistributedShard) -> tuple[list[dict], list[dict]]:
        if not cases:
            return [], []
        if "device" in self.runtime:
            self.runtime["device"] = shard.device(self.runtime["device"])
        pipeline = self.pipeline()
        runtime = next(iter(pipeline.runners.values()))[0].name
        facts = {"settings": digest, "runtime": runtime, "version": digest[:12]}
        if any(Path(c["image"]).is_dir() for c in cases if "problem" not in c):
            load_packages()
        elif any(file_suffix(c["image"]) not in NIFTI for c in cases):
            load_itk()

        process_bytes, budget, cancellation = program_bytes(), MemoryBudget(self.limit), Cancellation()

        def segment(case: Mapping[str, str]) -> tuple[dict | None, str]:
            bar, source, base = ProgressBar(case["name"]), case["image"], self.output / case["name"]
            try:
                if "problem" in case:
                    raise ValueError(f"{source}: {case['problem']}")
                case_facts = {
                    **facts,
                    "input_stamp": _input_stamp(case),
                    "case_path": case["name"],
                    "input_sha256": scan_hash(case),
                }
                result = segment_case(
                    source, base, pipeline, self.outputs, case.get("vertebrae"), self.expect_hu, self.limit,
                    process_bytes, case_facts, load_beside(cancellation.watched(bar)), tqdm.write, self.geometry,
                    parts_of(case), [case["remark"]] if "remark" in case else (), budget,
                )  # fmt: skip
                tqdm.write(line(result))
                return result, ""
            except Exception as error:  # readers raise errors of many kinds for a damaged file, and the next scan may be sound
                logger.debug("%s", source, exc_info=True)
                problem = _problem(error, source, base.parent)
                tqdm.write(problem)
                return None, problem
            finally:
                bar.close()

        results: dict[int, dict] = {}
        problems: dict[int, dict] = {}
        found = map_concurrently(segment, cases, self.concurrent_scans, cancellation)
        for index, (result, problem) in tqdm(
            found, desc="scans", unit="scan", total=len(cases), disable=True if len(cases) < 2 else None
        ):
            if result is not None:
                results[index] = result
            else:
                problems[index] = {
                    "case": cases[index]["name"],
                    "input": os.path.abspath(cases[index]["image"]),
                    "problem": problem,
                }
        return [results[n] for n in sorted(results)], [problems[n] for n in sorted(problems)]
