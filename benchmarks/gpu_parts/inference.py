# SPDX-License-Identifier: Apache-2.0
"""Inference of simulated CT scans from file to masks: this bundle's ``segment`` and MONAI's stock path with the same weights."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
from scripts.inference.config import read_config
from scripts.inference.memory import peak_resident

from .scans import LONG, SHORT, SMALL, wait_for
from .settings import CHECKPOINT, Row, Settings, attempt
from .timing import MIB, peak_mib, reset_peak, synchronize

DRAWN = ("picture",)  # after the masks are written
COHORT, TEST_COHORT = 10, 2  # scans of a cohort on a GPU, and in a test on a CPU
STOCK_FACTOR = 8  # of our seconds, which the stock path is started with
OURS, STOCK = "this bundle", "MONAI's stock path"


def values_of(settings: Settings, scan: Path, out: Path, device: str) -> dict[str, Any]:
    """Ids of inference.yaml for a scan."""
    values = {"input": str(scan), "output": str(out), "checkpoint": str(CHECKPOINT), "overwrite": True, "runtime": "torch"}
    return {**values, "device": device, "amp": device.startswith("cuda")}


def segmented(
    settings: Settings, scans: Path, out: Path, device: str | None = None, **values: Any
) -> tuple[list[dict[str, Any]], float]:
    """Segment scans with the command's function; their results, and the seconds of all of the command.

    Args:
        settings: settings of the part.
        scans: CT, or folder of CTs.
        out: folder of the masks.
        device: PyTorch device; None for that of the settings.
        values: further ids of inference.yaml.
    """
    device = device or settings.device
    parser = read_config(None, {**values_of(settings, scans, out, device), **values})
    segmenter = parser.get_parsed_content("segmenter")
    synchronize(device)
    begin = time.perf_counter()
    results = list(segmenter.run())
    synchronize(device)
    return results, time.perf_counter() - begin


def ours(settings: Settings, scan: Path, out: Path, device: str | None = None, **values: Any) -> dict[str, Any]:
    """Segment one scan; the result with the seconds by phase and ``total``, all of the command. Arguments: ``segmented``."""
    (result,), total = segmented(settings, scan, out, device, **values)
    return {**result, "total": total}


def stock(settings: Settings, scan: Path, out: Path) -> dict[str, Any]:
    """Segment a scan with MONAI's transforms and sliding windows over every slice; the seconds of all of it."""
    parser = read_config(None, values_of(settings, scan, out, settings.device))
    parser["handlers"] = []
    parser.get_parsed_content("loaded_weights")
    evaluator = parser.get_parsed_content("evaluator")
    synchronize(settings.device)
    begin = time.perf_counter()
    evaluator.run()
    synchronize(settings.device)
    return {"total": time.perf_counter() - begin}


def mask_of(folder: Path) -> np.ndarray:
    """Mask of the fractured vertebrae in a folder of results."""
    return np.asarray(nib.load(next(folder.glob("*_fracture.nii.gz"))).dataobj) > 0


def dice(a: np.ndarray, b: np.ndarray) -> float:
    """Dice coefficient of two masks; 1 when both are empty."""
    total = np.count_nonzero(a) + np.count_nonzero(b)
    return 2 * np.count_nonzero(a & b) / total if total else 1.0


def masks_written(result: dict[str, Any]) -> float:
    """Seconds from the start of reading until the masks are written."""
    return sum(s for phase, s in result["seconds"].items() if phase not in DRAWN)


def _measured(settings: Settings, work: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    reset_peak(settings.device)
    result = work()
    return {**result, "GPU MiB": peak_mib(settings.device), "host MiB": round(peak_resident() / MIB)}


def _warm_up(row: Row, path: str, work: Callable[[], dict[str, Any]]) -> dict[str, Any] | None:
    """Run a small scan, which loads libraries; not counted."""
    return attempt(row, "inference", {"path": path, "scan": "warm-up", "run": 0}, lambda: {"s of the command": work()["total"]})


def _compare(settings: Settings, row: Row, name: str, repeats: int) -> None:
    folder = Path(settings.out) / "masks" / name
    small = wait_for(settings, SMALL)
    _warm_up(row, OURS, lambda: ours(settings, small, folder / "warm_up"))
    scan = wait_for(settings, name)
    shape = " x ".join(str(n) for n in nib.load(scan).shape)
    ours_s: list[float] = []

    def run_ours() -> dict[str, Any]:
        result = _measured(settings, lambda: ours(settings, scan, folder / "ours"))
        seconds = masks_written(result)
        ours_s.append(seconds)
        row("inference phases", {"scan": shape, **result["seconds"], **result["windows"]})
        network = result["seconds"].get("network", 0.0)
        return {
            "s to masks": seconds,
            "s of the command": result["total"],
            "s of network": network,
            "network's share": f"{network / seconds:.0%}",
            "GPU MiB": result["GPU MiB"],
            "host MiB": result["host MiB"],
            "fractured": len(result["findings"]),
        }

    for n in range(1, repeats + 1):
        if not ours_s or settings.left() > 3 * ours_s[-1]:
            attempt(row, "inference", {"path": OURS, "scan": shape, "run": n}, run_ours)

    def run_stock() -> dict[str, Any]:
        result = _measured(settings, lambda: stock(settings, scan, folder / "stock"))
        columns = {"s to masks": result["total"], "s of the command": result["total"], "GPU MiB": result["GPU MiB"]}
        columns["host MiB"] = result["host MiB"]
        if ours_s:
            columns["times as long as ours"] = result["total"] / float(np.median(ours_s))
            columns["DSC to ours"] = dice(mask_of(folder / "stock"), mask_of(folder / "ours"))
        return columns

    if ours_s and settings.left() < STOCK_FACTOR * ours_s[-1]:
        return
    _warm_up(row, STOCK, lambda: stock(settings, small, folder / "warm_up_stock"))
    attempt(row, "inference", {"path": STOCK, "scan": shape, "run": 1}, run_stock)


def short_scan(settings: Settings, row: Row) -> None:
    """Measure a scan of 512 x 512 x 300 voxels."""
    _compare(settings, row, SHORT, repeats=3 if settings.cuda else 1)


def long_scan(settings: Settings, row: Row) -> None:
    """Measure a scan of 512 x 512 x 600 voxels."""
    _compare(settings, row, LONG, repeats=2 if settings.cuda else 1)


def cohort(settings: Settings, row: Row, numbers: Sequence[int] = (1, 2, 4)) -> None:
    """Measure copies of the shorter scan, one by one and several at a time.

    Args:
        settings: settings of the part.
        row: reports a row.
        numbers: scans in progress at a time.
    """
    folder, scan = Path(settings.out) / "cohort", wait_for(settings, SHORT)
    folder.mkdir(parents=True, exist_ok=True)
    _warm_up(row, OURS, lambda: ours(settings, wait_for(settings, SMALL), folder / "warm_up"))
    copies = folder / "scans"
    copies.mkdir(exist_ok=True)
    for n in range(COHORT if settings.cuda else TEST_COHORT):
        if not (copies / f"scan_{n}.nii.gz").exists():
            shutil.copyfile(scan, copies / f"scan_{n}.nii.gz")
    first: list[float] = []

    def measure(number: int) -> dict[str, Any]:
        reset_peak(settings.device)
        results, total = segmented(settings, copies, folder / str(number), concurrent_scans=number)
        first.append(total)
        columns = {"scans": len(results), "s": total, "scans/s": len(results) / total, "times as fast": first[0] / total}
        return {**columns, "GPU MiB": peak_mib(settings.device), "host MiB": round(peak_resident() / MIB)}

    for number in numbers:
        if not first or settings.left() > 1.2 * first[0]:
            attempt(row, "cohort", {"scans at a time": number}, lambda number=number: measure(number))
