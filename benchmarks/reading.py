# SPDX-License-Identifier: Apache-2.0
"""Seconds from the start of ``segment`` to the first window in the network, of other commands, and of reading scans.

    python benchmarks/reading.py start SCAN [--rounds 3] [--beside DIR]   # phases of a process
    python benchmarks/reading.py commands [--beside DIR]   # commands on three small phantoms, also by another checkout in turn
    python benchmarks/reading.py nifti [SCAN]              # zlib and ISA-L on one scan, a phantom of noise by default

CPU seconds hardly depend on what else a machine does; elapsed seconds are what users wait. Files are read once before that.
"""

from __future__ import annotations

import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import fire
import numpy as np

BUNDLE = Path(__file__).resolve().parents[1] / "bundle"
# Prints CPU and elapsed seconds of a process of ``segment`` at the ends of its phases, and stops at the first window.
PROGRAM = """
import os, sys, time
def mark(phase):
    print("phase", phase, sum(os.times()[:2]), time.time() - float(os.environ["STARTED"]), flush=True)
from scripts.inference import segment
whole = segment.import_monai
def import_monai():
    mark("input checked")
    whole()
    mark("PyTorch and MONAI")
    from scripts.inference import cohort, pipeline
    mark("other modules")
    load = cohort.Segmenter.pipeline
    def loaded(self):
        mark("config")
        result = load(self)
        mark("network")
        return result
    cohort.Segmenter.pipeline = loaded
    def first(*_, **__):
        mark("scan read")
        os._exit(0)
    pipeline.predict_slices = pipeline.predict_volume = first
segment.import_monai = import_monai
from scripts.commands import main
main()
"""


def _phases(bundle: Path, scan: str, runtime: str) -> dict[str, tuple[float, float]]:
    """CPU and elapsed seconds of the phases of one process of ``segment`` until the first window is in the network."""
    with tempfile.TemporaryDirectory() as out:
        words = ["segment", str(Path(scan).resolve()), "--out", out, "--runtime", runtime]
        environment = {**os.environ, "STARTED": str(time.time())}
        done = subprocess.run(
            [sys.executable, "-c", PROGRAM, *words], cwd=bundle, env=environment, capture_output=True, text=True, check=False
        )
    lines = [line.split(" ") for line in done.stdout.splitlines() if line.startswith("phase")]
    if not lines or lines[-1][1] != "scan":
        raise SystemExit(done.stdout + done.stderr)
    phases, before = {}, np.zeros(2)
    for _, *phase, cpu, elapsed in lines:
        end = np.array([float(cpu), float(elapsed)])
        phases[" ".join(phase)] = tuple((end - before).tolist())
        before = end
    return {**phases, "sum": tuple(before.tolist())}


def start(scan: str, rounds: int = 3, runtime: str = "auto", beside: str | None = None) -> None:
    """Print median seconds of each phase of ``segment`` until the first window is in the network, of checkouts in turn.

    Args:
        scan: file.
        rounds: rounds that count; one precedes them and fills the page cache.
        runtime: backend.
        beside: bundle folder of another version.
    """
    bundles = {"": BUNDLE, **({" beside": Path(beside).resolve()} if beside else {})}
    runs: dict[str, list[dict[str, tuple[float, float]]]] = {name: [] for name in bundles}
    for _ in range(rounds + 1):
        for name, bundle in bundles.items():
            runs[name].append(_phases(bundle, scan, runtime))
    for name, measured in runs.items():
        print(f"| phase{name} | CPU s | elapsed s (range) |\n| --- | --- | --- |")
        for phase in measured[0]:
            cpu, elapsed = ([run[phase][k] for run in measured[1:]] for k in (0, 1))
            low, high = min(elapsed), max(elapsed)
            print(f"| {phase} | {statistics.median(cpu):.2f} | {statistics.median(elapsed):.2f} ({low:.2f} to {high:.2f}) |")
    print(f"n = {rounds}")


def _command(bundle: Path, *words: str, fails: bool = False) -> float:
    """CPU seconds of a command and its processes."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    done = subprocess.run([sys.executable, "-W", "ignore", "-m", "scripts", *words], cwd=bundle, capture_output=True, text=True)
    if (done.returncode != 0) is not fails:
        raise SystemExit(done.stdout + done.stderr)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def commands(beside: str | None = None, rounds: int = 2) -> None:
    """Print the median CPU seconds of commands from their start to their end, on three small phantoms.

    Args:
        beside: bundle of another checkout, whose commands are run in turn with these.
        rounds: runs of each command that count; the first, which fills the page cache, does not.
    """
    bundles = [BUNDLE, *([Path(beside).resolve()] if beside else [])]
    with tempfile.TemporaryDirectory() as folder:
        data, masks, model = f"{folder}/data", f"{folder}/masks", str(BUNDLE / "models" / "model.pt")
        phantom = ("--cases", "3", "--seed", "3", "--regions", "lumbar", "--spacing", "[4,3,3]")
        _command(BUNDLE, "data", "phantom", "--out", data, *phantom)
        _command(BUNDLE, "segment", f"{data}/images", "--out", masks, "--device", "cpu")
        works = {
            "bundle run, with a mistake": ("bundle", "run", "none", "--config_file", "configs/train.yaml"),
            "weights show": ("weights", "show", model),
            "data compact": ("data", "compact", data, "--out", "{out}", "--workers", "1"),
            "evaluate score": ("evaluate", "score", masks, f"{data}/labels", "--vertebrae", f"{data}/vertebrae", "--out", "{out}"),
            "evaluate check-weights": ("evaluate", "check-weights", f"{data}/images", "--out", "{out}", "--limit", "1"),
        }
        print(f"| command | CPU s{' | beside | ratio' if beside else ''} |\n| --- | ---{' | --- | ---' if beside else ''} |")
        for name, words in works.items():
            seconds: list[list[float]] = [[] for _ in bundles]
            for number in range(rounds + 1):
                for values, bundle in zip(seconds, bundles, strict=True):
                    out = tempfile.mkdtemp(dir=folder) + "/out"
                    filled = [out if word == "{out}" else word for word in words]
                    taken = _command(bundle, *filled, fails="mistake" in name)
                    if number:
                        values.append(taken)
            medians = [statistics.median(values) for values in seconds]
            ratio = f" | {medians[1] / medians[0]:.1f}" if beside else ""
            print(f"| {name} | {' | '.join(f'{m:.1f}' for m in medians)}{ratio} |", flush=True)


def _seconds(function: Callable[[], object], rounds: int) -> float:
    """Median CPU seconds of this process; the first call is not counted."""
    values = []
    for _ in range(rounds + 1):
        begin = time.process_time()
        function()
        values.append(time.process_time() - begin)
    return statistics.median(values[1:])


def nifti(scan: str | None = None, rounds: int = 3) -> None:
    """Print the CPU seconds in which a compressed scan is read by zlib and by ISA-L, alone and as a scan with its checks."""
    import nibabel as nib
    from nibabel.openers import ImageOpener

    sys.path.insert(0, str(BUNDLE))
    from scripts.io import fast_gzip
    from scripts.io.ct_volume import Scan, hu_slabs
    from scripts.io.scan_header import read_header

    with tempfile.TemporaryDirectory() as folder:
        if scan is None:
            scan = os.path.join(folder, "scan.nii.gz")
            voxels = np.random.default_rng(0).normal(0, 20, (512, 512, 400)).astype(np.int16)
            nib.save(nib.Nifti1Image(voxels, np.diag([0.8, 0.8, 1.0, 1.0])), scan)
        print(f"{os.path.getsize(scan) / 1e6:.0f} MB")
        header = read_header(scan)
        works = {
            "nibabel": lambda: np.asarray(nib.load(scan).dataobj),
            "slabs": lambda: [None for _ in hu_slabs(header)],
            "scan with checks": lambda: Scan(header, expect_hu=False).close(),
        }
        for name, work in works.items():
            ImageOpener.compress_ext_map[".gz"] = (fast_gzip.STANDARD, fast_gzip.ARGUMENTS)
            standard = _seconds(work, rounds)
            fast_gzip.register()
            fast = _seconds(work, rounds)
            print(f"{name}: zlib {standard:.2f} s, ISA-L {fast:.2f} s, ratio {standard / fast:.2f}, n = {rounds}")


if __name__ == "__main__":
    fire.Fire({"start": start, "commands": commands, "nifti": nifti})
