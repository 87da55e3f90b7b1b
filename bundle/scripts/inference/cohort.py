# SPDX-License-Identifier: Apache-2.0
"""Many scans: found, shared among processes, segmented one after another, put into tables and one page."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from torch import nn
from tqdm import tqdm

from ..core.errors import InputError
from ..core.files import write_text
from ..core.provenance import file_hash
from ..io.formats import VOLUMES, stem
from ..postprocessing.findings import PostProcessing
from .case import Outputs, segment_case
from .distributed_shard import DistributedShard
from .inputs import find_inputs, same_output, shared_folder
from .memory import parse_bytes, peak_resident
from .pipeline import Pipeline
from .predict import PLANES, PatchConfig
from .runtimes import Runner, load_runner
from .tables import finished_cases, line, summarise


class _Bar:
    """Progress of one case, a bar per phase."""

    def __init__(self, name: str) -> None:
        self.name, self.phase = name, ""
        self.bar: tqdm | None = None

    def __call__(self, phase: str, done: int, total: int) -> None:
        if phase != self.phase:
            self.close()
            self.phase = phase
            self.bar = tqdm(total=total, desc=f"{self.name}: {phase}", leave=False)
        assert self.bar is not None
        self.bar.update(done - self.bar.n)

    def close(self) -> None:
        if self.bar is not None:
            self.bar.close()
            self.bar = None


def _reason(error: BaseException, source: str, folder: Path) -> str:
    """One line that names the scan, what went wrong, and the remedy."""
    if isinstance(error, OSError) and error.strerror:
        return f"{source}: {error.filename or folder}: {error.strerror}; make room, or choose another output"
    if isinstance(error, MemoryError):
        return f"{source}: there is not enough memory; set max_memory, or take a smaller batch"
    line = (str(error).strip().splitlines() or [type(error).__name__])[0]
    return line if isinstance(error, ValueError) else f"{source}: {line}"


class Segmenter:
    """Segment scans with one or several networks.

    Args:
        network: network of the config.
        checkpoint: weights or an exported model; a list is an ensemble whose probabilities are averaged; a dictionary gives each
            plane its own.
        input: scan, folder or datalist, see ``inputs.find_inputs``.
        cases: scans as ``find_inputs`` gives them; None lets it look for them.
        output: folder of the results.
        channels: channels of the network's input without neighbouring slices.
        window: arguments of ``PatchConfig``.
        planes: planes whose slices a 2D network sees; the probabilities of several are averaged.
        search: arguments ``search``, ``coarse_mm`` and ``coarse_threshold`` of ``Pipeline``, and ``spacing``.
        post: arguments of ``PostProcessing``.
        outputs: arguments of ``Outputs``.
        runtime: arguments ``runtime``, ``device``, ``precision``, ``amp`` and ``compiled`` of ``load_runner``.
        vertebrae: mask of vertebra instances of a single scan, or a folder of masks named like the scans; gives findings levels.
        section: section of a datalist.
        expect_hu: whether scans whose values are no HU are refused.
        max_memory: such as "4G"; scans that need more are held in a temporary file, or refused.
        overwrite: whether finished cases are made again.

    Raises:
        InputError: for a value out of range, with the remedy.
    """

    def __init__(
        self,
        network: nn.Module,
        checkpoint: str | Sequence[str] | Mapping[str, str | Sequence[str]],
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
        max_memory: str | float | None = None,
        overwrite: bool = False,
        cases: Sequence[Mapping[str, str]] | None = None,
    ) -> None:
        try:
            arguments = dict(window or {"size": (256, 256)})
            for name in ("size", "hu"):
                if name in arguments:
                    arguments[name] = tuple(arguments[name])
            arguments["flips"] = tuple(tuple(axes) for axes in arguments.get("flips", ()))
            self.window = PatchConfig(**arguments)
            self.post = PostProcessing(**dict(post or {}))
            self.outputs = Outputs(**dict(outputs or {}))
            self.limit = parse_bytes(max_memory)
        except (TypeError, ValueError) as error:
            raise InputError(str(error)) from None
        flat = len(self.window.size) == 2
        self.planes = [planes] if isinstance(planes, str) else list(planes)
        if flat and (not self.planes or any(p not in PLANES for p in self.planes)):
            raise InputError(f"planes={planes!r}: give some of {', '.join(PLANES)}")
        self.checkpoints = self._by_plane(checkpoint, self.planes if flat else ["volume"])
        self.network, self.channels = network, channels * (2 * self.window.neighbours + 1)
        self.search, self.runtime = dict(search or {}), dict(runtime or {})
        self.input, self.output, self.vertebrae, self.section = input, Path(output), vertebrae, section
        self.expect_hu, self.overwrite, self.given = expect_hu, overwrite, cases

    @staticmethod
    def _by_plane(
        checkpoint: str | Sequence[str] | Mapping[str, str | Sequence[str]], planes: Sequence[str]
    ) -> dict[str, list[str]]:
        if isinstance(checkpoint, Mapping):
            missing = [p for p in planes if p not in checkpoint]
            if missing:
                raise InputError(f"checkpoint: has none for {missing[0]}; give every plane one")
            chosen = {p: checkpoint[p] for p in planes}
        else:
            chosen = dict.fromkeys(planes, checkpoint)
        return {p: [c] if isinstance(c, str) else [str(x) for x in c] for p, c in chosen.items()}

    def _runners(self) -> dict[str, list[Runner]]:
        """Load every checkpoint once, planes that share one share its runner."""
        import copy

        shape, loaded = (self.channels, *self.window.size), {}  # type: tuple[int, ...], dict[str, Runner]
        for name in dict.fromkeys(c for files in self.checkpoints.values() for c in files):
            own = copy.deepcopy(self.network) if len(loaded) else self.network
            loaded[name] = load_runner(own, name, shape, **self.runtime)
            loaded[name](torch.zeros(self.window.batch, *shape))  # so that its memory is known before the first scan
        return {plane: [loaded[c] for c in files] for plane, files in self.checkpoints.items()}

    def pipeline(self) -> Pipeline:
        """Load the networks and make the pipeline.

        Raises:
            InputError: for a missing or foreign checkpoint, or a value out of range.
        """
        try:
            return Pipeline(self._runners(), self.window, **self.search)
        except (TypeError, ValueError) as error:
            raise InputError(str(error)) from None

    def _cases(self) -> list[dict[str, str]]:
        cases = find_inputs(self.input, self.section) if self.given is None else [dict(c) for c in self.given]
        if not cases:
            raise InputError(
                f"{self.input}: holds no scan; set input to a file ({', '.join(VOLUMES)}), the folder of a DICOM series, "
                "a folder of these, or a datalist.json"
            )
        root = shared_folder(cases)
        lost = {line.split(":", 1)[0] for line in same_output(cases)}
        for case in cases:
            folder = os.path.relpath(os.path.dirname(case["image"]), root) if root else ""
            case["name"] = os.path.normpath(os.path.join(folder, stem(os.path.abspath(case["image"]))))
            if case["image"] in lost:
                case["problem"] = "another scan differs from it only in its ending; rename one"
            if self.vertebrae is not None:
                case["vertebrae"] = self._mask_for(case, len(cases) == 1)
        return cases

    def _mask_for(self, case: Mapping[str, str], single: bool) -> str:
        given = Path(str(self.vertebrae))
        if given.is_file() and single:
            return str(given)
        found = [
            given / f"{stem(case['image'])}{e}" for e in VOLUMES if (given / f"{stem(case['image'])}{e}").is_file()
        ]
        return str(found[0]) if found else str(given / f"{stem(case['image'])}.nii.gz")

    def _settings(self) -> dict:
        """What decides the result of a case."""
        hashes = {c: file_hash(c) for files in self.checkpoints.values() for c in files if Path(c).is_file()}
        window = {k: v for k, v in self.window.__dict__.items() if k not in ("weights", "batch")}
        return {
            "checkpoints": {p: [hashes.get(c, c) for c in files] for p, files in self.checkpoints.items()},
            "window": window,
            "search": self.search,
            "post": dict(self.post.__dict__),
            "runtime": {k: str(v) for k, v in self.runtime.items()},
            "expect_hu": self.expect_hu,
        }

    def _done(self, case: Mapping[str, str], digest: str) -> dict | None:
        """Result of an earlier run with the same settings on the same file."""
        base = self.output / case["name"]
        path = base.parent / "cases" / f"{base.name}.json"
        if self.overwrite or not path.is_file():
            return None
        try:
            result = json.loads(path.read_text(encoding="utf-8"))
        except ValueError:
            return None
        if not isinstance(result, dict):
            return None
        if result.get("settings") != digest:
            raise InputError(
                f"{path}: was made with other settings or weights; choose another output folder, or set overwrite to true"
            )
        # A file that is gone is not finished: it is named with the other problems when its turn comes.
        same = Path(case["image"]).exists() and result.get("input_stamp") == _stamp(case["image"])
        wanted = [] if self.outputs.statistics_only else ["_fracture.nii.gz"]
        wanted += ["_probability.nii.gz"] if self.outputs.save_probabilities else []
        return result if same and all(base.with_name(base.name + w).is_file() for w in wanted) else None

    def run(self) -> list[dict]:
        """Segment all scans; scans that cannot be segmented are named and cost only themselves.

        Returns:
            Results, as in ``cases/*.json``.

        Raises:
            InputError: when nothing can start, or no scan could be segmented.
        """
        from ..training.preflight import check_command

        check_command()
        cases = self._cases()
        try:
            self.output.mkdir(parents=True, exist_ok=True)
            write_text(self.output / ".writable", "")
            (self.output / ".writable").unlink()
        except OSError as error:
            raise InputError(f"{self.output}: cannot be written to ({error.strerror}); choose another output") from None
        for files in self.checkpoints.values():
            for file in files:
                if not Path(file).is_file():
                    raise InputError(
                        f"{file}: no such checkpoint; train first or set `checkpoint` to a file with weights"
                    )
        settings = self._settings()
        digest = hashlib.sha256(json.dumps(settings, sort_keys=True, default=str).encode()).hexdigest()
        finished = {c["name"]: r for c in cases if (r := self._done(c, digest)) is not None}
        with DistributedShard() as share:
            mine = share.part([c for c in cases if c["name"] not in finished])
            results, problems = self._segment(mine, digest, share)
            results, problems = share.gather(results), share.gather(problems)
            if share.first:
                # All of the folder, so that scans that are added one by one share their tables and page.
                every = finished_cases(self.output, digest) | {r["case_path"]: r for r in results}
                ordered = sorted(every.values(), key=lambda r: r["case_path"])
                page = summarise(self.output, ordered, problems, settings, self.input, len(every) - len(results))
                tqdm.write(page)
        results = sorted([*finished.values(), *results], key=lambda r: r["case_path"])
        if not results and problems:
            raise InputError("\n".join([*(p["problem"] for p in problems), "no scan could be segmented"]))
        return results

    def _segment(
        self, cases: Sequence[dict[str, str]], digest: str, share: DistributedShard
    ) -> tuple[list[dict], list[dict]]:
        if not cases:
            return [], []
        if "device" in self.runtime:
            self.runtime["device"] = share.device(self.runtime["device"])
        pipeline = self.pipeline()
        name = next(iter(pipeline.runners.values()))[0].name
        facts = {"settings": digest, "runtime": name, "version": f"{digest[:12]}"}
        with contextlib.suppress(ImportError):
            import matplotlib.figure  # noqa: F401  # part of the memory that is there before the first scan

        base_bytes = peak_resident()
        results: list[dict] = []
        problems: list[dict] = []
        for case in tqdm(cases, desc="scans", unit="scan", disable=len(cases) < 2):
            bar, base = _Bar(case["name"]), self.output / case["name"]
            try:
                (base.parent / "cases" / f"{base.name}.json").unlink(missing_ok=True)  # what it said is no longer true
                if "problem" in case:
                    raise ValueError(f"{case['image']}: {case['problem']}")
                stamp = _stamp(case["image"])
                own = {
                    **facts,
                    "input_stamp": stamp,
                    "case_path": case["name"],
                    "input_sha256": file_hash(case["image"]),
                }
                result = segment_case(
                    case["image"], base, pipeline, self.post, self.outputs, case.get("vertebrae"),
                    self.expect_hu, self.limit, base_bytes, own, bar, tqdm.write,
                )  # fmt: skip
                results.append(result)
                tqdm.write(line(result))
            except (ValueError, OSError, MemoryError, RuntimeError) as error:
                problems.append(
                    {
                        "case": case["name"],
                        "input": case["image"],
                        "problem": _reason(error, case["image"], base.parent),
                    }
                )
                tqdm.write(problems[-1]["problem"])
            finally:
                bar.close()
        return results, problems


def _stamp(path: str) -> list:
    """Size and time of a file, or of the files of a folder: enough to see that it changed."""
    source = Path(path)
    files = sorted(f for f in source.iterdir() if f.is_file()) if source.is_dir() else [source]
    stats = [f.stat() for f in files]
    return [len(files), sum(s.st_size for s in stats), max((s.st_mtime_ns for s in stats), default=0)]
