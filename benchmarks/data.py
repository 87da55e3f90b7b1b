# SPDX-License-Identifier: Apache-2.0
"""Seconds and peak memory of the data commands with one and two workers.

    python benchmarks/data.py            # on phantoms in a tree like that of VerSe, in a temporary folder
    python benchmarks/data.py --source VERSE --grades TABLE

Every command runs in its own process, for its own peak memory; imports are not timed.
"""

from __future__ import annotations

import csv
import os
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import fire

BUNDLE = Path(__file__).resolve().parents[1] / "bundle"
MEASURED = re.compile(r"^measured ([\d.]+) (\d+)$", re.MULTILINE)
# Runs a command after its imports and prints its seconds and the peak of its resident memory (Linux: KiB).
RUN = (
    "import resource, sys, time\n"
    "from scripts.commands import DATA, main\n"
    "from scripts.core.cli import load\n"
    "load(DATA[sys.argv[1]][0])\n"
    "start = time.perf_counter()\n"
    "main('data')\n"
    "print('measured', time.perf_counter() - start, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)\n"
)


def _run(*arguments: str) -> tuple[float, float]:
    """Seconds and MiB of one command."""
    process = subprocess.run([sys.executable, "-c", RUN, *arguments], cwd=BUNDLE, capture_output=True, text=True, check=False)
    measured = MEASURED.search(process.stdout)
    if process.returncode or measured is None:
        raise SystemExit(f"{' '.join(arguments)} failed:\n{process.stdout[-500:]}\n{process.stderr[-1500:]}")
    return float(measured[1]), int(measured[2]) / 1024


def _tree(folder: Path, cases: int) -> tuple[Path, Path]:
    """Phantoms in a tree like that of VerSe, with a table of grades."""
    _run("phantom", "--out", str(folder / "phantoms"), "--cases", str(cases), "--regions", "thoracolumbar")
    table = folder / "grades.csv"
    levels = [*(f"T{i}" for i in range(1, 13)), *(f"L{i}" for i in range(1, 7))]
    with table.open("w", newline="") as file, (folder / "phantoms" / "vertebrae.csv").open(newline="") as vertebrae:
        rows = list(csv.DictReader(vertebrae))
        writer = csv.DictWriter(file, ["verse_ID", "subject_ID", *(f"{v}_fx-{k}" for v in levels for k in "gs")])
        writer.writeheader()
        for number, image in enumerate(sorted((folder / "phantoms" / "images").glob("*.nii.gz")), start=1):
            stem = f"sub-verse{number:03d}"
            raw, derived = (folder / "verse" / part / stem for part in ("rawdata", "derivatives"))
            raw.mkdir(parents=True)
            derived.mkdir(parents=True)
            shutil.copy(image, raw / f"{stem}_ct.nii.gz")
            shutil.copy(folder / "phantoms" / "vertebrae" / image.name, derived / f"{stem}_seg-vert_msk.nii.gz")
            grades = {f"{r['level']}_fx-g": r["grade"] for r in rows if r["case"] == image.name.removesuffix(".nii.gz")}
            writer.writerow({"verse_ID": number, "subject_ID": number, **{k: v for k, v in grades.items() if k[:2] != "S1"}})
    return folder / "verse", table


def main(cases: int = 6, source: str | None = None, grades: str | None = None) -> None:
    """Print a table of seconds per case and peak memory.

    Args:
        cases: number of phantoms, when there is no source.
        source: folder of VerSe.
        grades: table of Genant grades of VerSe.
    """
    with tempfile.TemporaryDirectory() as temporary:
        root = Path(temporary)
        tree, table = (Path(source).resolve(), Path(grades).resolve()) if source and grades else _tree(root, cases)
        number = len(list(tree.rglob("*_ct.nii*")))
        print(f"{number} cases, {os.cpu_count()} cores\n")
        print("| command | workers | s per case | peak MiB |\n| --- | --- | --- | --- |")
        for workers in (1, 2):
            out = root / f"out{workers}"
            extra = ("--workers", str(workers))
            for name, arguments in (
                ("verse", (str(tree), "--grades", str(table), "--out", str(out))),
                ("check", (str(out / "datalist.json"),)),
                ("simulate", (str(out / "datalist.json"), "--out", str(root / f"simulated{workers}"))),
            ):
                seconds, peak = _run(name, *arguments, *extra)
                print(f"| {name} | {workers} | {seconds / number:.2f} | {peak:.0f} |", flush=True)


if __name__ == "__main__":
    fire.Fire(main)
