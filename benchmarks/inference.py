# SPDX-License-Identifier: Apache-2.0
"""Inference compared with MONAI's stock path: seconds, memory, DSC between the masks, growth with the length of the scan.

    python benchmarks/inference.py data --out DIR                          # phantoms to train the network, see below
    python benchmarks/inference.py scan --out DIR                          # a 512 x 512 x 600 torso with fractures
    python benchmarks/inference.py compare --scan FILE --checkpoint FILE   # stock path and ours, each in its own process
    python benchmarks/inference.py compare --scan FILE --checkpoint bundle/models/model.pt \
        --variants "['stock path','PyTorch','OpenVINO']" --grid "{'spacing': [1.5, 1.5, 1.5], 'patch_size': [128, 160]}"
    python benchmarks/inference.py decisions --scan FILE                   # shipped weights, by voxel and per vertebra, in turn
    python benchmarks/inference.py cohort --scans DIR --rounds 3           # shipped weights, scans one by one and two at a time
    python benchmarks/inference.py growth --scan FILE --checkpoint FILE    # 100 to 2000 slices, our path alone

The network: ``cd bundle && python -m monai.bundle run training --dataset_dir DIR --ckpt_dir DIR --config_file
"['configs/train.yaml','../benchmarks/inference_train.yaml']"``, half an hour on two cores.

The stock path is kept in inference.yaml for comparison: LoadImaged, Orientationd, Spacingd, SliceInferer over every slice,
Invertd, AsDiscreted, RemoveSmallObjectsd, SaveImaged, eager and float32. Imports are not timed; memory is the peak of the process.
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path

import fire
import nibabel as nib
import numpy as np
from torso import save, torso

ROOT = Path(__file__).resolve().parents[1]
SPACING = (0.7, 0.7, 1.0)
# Grid of every variant; finer than the default.
GRID: dict[str, list] = {"spacing": [1.0, 1.0, 1.0], "patch_size": [256, 256]}
VARIANTS: dict[str, dict] = {
    "stock path": {"stock": True},
    "PyTorch": {"runtime": "torch", "precision": "float32"},
    "PyTorch, bfloat16": {"runtime": "torch", "precision": "bfloat16"},
    "OpenVINO": {"runtime": "openvino", "precision": "float32"},
    "OpenVINO, bfloat16": {"runtime": "openvino", "precision": "bfloat16"},
    "PyTorch, every slice": {"runtime": "torch", "precision": "float32", "coarse_mm": 0.0, "search": "all"},
}


def scan(out: str, slices: int = 600, columns: int = 512, seed: int = 900, piece: int = 300) -> None:
    """Write a CT of stacked torsos, each with two fractures, and its mask.

    Args:
        out: folder to write to.
        slices: length of the scan.
        columns: pixels along both sides of a slice.
        seed: seed of the first torso; two different torsos alternate.
        piece: slices of a torso.
    """
    root = Path(out)
    root.mkdir(parents=True, exist_ok=True)
    pieces = []
    for n in range(min(2, -(-slices // piece))):
        phantom = torso(seed + n, 2, SPACING, (columns, columns, piece))
        fractured = np.isin(phantom.labels, [f["label"] for f in phantom.fractures])
        pieces.append((phantom.image, fractured.astype(np.uint8)))
        print(f"piece {n + 1}: {[(f['level'], f['shape'], f['grade']) for f in phantom.fractures]}", flush=True)
    count = -(-slices // piece)
    image, label = (np.concatenate([pieces[n % len(pieces)][k] for n in range(count)], axis=2)[:, :, :slices] for k in (0, 1))
    affine = np.diag([-SPACING[0], -SPACING[1], SPACING[2], 1.0])  # L, P, S, the usual orientation of scanners
    affine[:2, 3] = [s * (columns - 1) / 2 for s in SPACING[:2]]
    for name, data in ((f"torso_{slices}.nii.gz", image), (f"torso_{slices}_label.nii.gz", label)):
        nifti = nib.Nifti1Image(np.ascontiguousarray(data[::-1, ::-1]), affine)
        nifti.header.set_xyzt_units("mm")
        nib.save(nifti, root / name)
        print(root / name)


def data(out: str, cases: int = 26, seed: int = 500) -> None:
    """Write phantoms of 3 x 1 x 1 mm, every other one a torso, most with fractures of grade 2 and 3.

    Args:
        out: folder to write to; six cases are for validation and testing.
        cases: number of scans.
        seed: seed of the first scan.
    """
    from dataclasses import replace

    from scripts.simulation.datasets.phantom import fractured_phantom
    from scripts.simulation.style import ScanStyle

    root, entries = Path(out), []
    (root / "labels").mkdir(parents=True, exist_ok=True)
    for n in range(cases):
        fractures = 0 if n % 8 in (6, 7) else 1 + n % 3
        if n % 2:
            phantom = torso(seed + n, fractures, (3, 1, 1), (112, 300, 300))
        else:
            region = ("thoracolumbar", "lumbar", "thoracic")[n // 2 % 3]
            style = replace(ScanStyle.random(np.random.default_rng([seed + n, 11]), region), spacing=(3, 1, 1))
            phantom = fractured_phantom(seed + n, region, fractures, [2, 3], style)
        entry = {"image": f"images/c{n:02d}.nii.gz", "label": f"labels/c{n:02d}.nii.gz", "patient": f"c{n:02d}"}
        fractured = np.isin(phantom.labels, save(phantom, root / entry["image"])).astype(np.uint8)
        nib.save(nib.Nifti1Image(fractured[::-1, ::-1], nib.load(root / entry["image"]).affine), root / entry["label"])
        entries.append(entry)
        print(f"{n + 1} of {cases}: {phantom.image.shape}, {fractures} fracture(s)", flush=True)
    sections = {"training": entries[:-6], "validation": entries[-6:-3], "testing": entries[-3:]}
    (root / "datalist.json").write_text(json.dumps(sections, indent=1))


def child(scan: str, checkpoint: str, out: str, options: str = "{}", config: str | None = None) -> None:
    """Run one variant in this process and print its times and memory as JSON."""
    sys.path.insert(0, str(ROOT / "bundle"))
    from scripts.core.collection import imports_kept

    with imports_kept():  # as a command does
        import matplotlib.figure  # noqa: F401
        import monai.handlers  # noqa: F401
        import torch
        from scripts.inference.config import read_config
        from scripts.inference.memory import peak_resident

    torch.set_num_threads(2)
    values = GRID | dict(json.loads(options))
    stock = values.pop("stock", False)
    if values.get("runtime") == "openvino":
        from scripts.inference.runtimes import import_openvino

        import_openvino()
    before = peak_resident()
    start = time.perf_counter()
    files = json.loads(config) if config else None
    parser = read_config(files, {"input": scan, "output": out, "checkpoint": checkpoint, "overwrite": True, **values})
    result: dict = {}
    if stock:
        parser["handlers"] = []
        parser.get_parsed_content("loaded_weights")
        parser.get_parsed_content("evaluator").run()
    else:
        result = dict(parser.get_parsed_content("segmenter").run()[0])
    seconds = time.perf_counter() - start
    report = {k: result.get(k) for k in ("seconds", "windows", "memory_mib", "runtime")}
    print("RESULT" + json.dumps({"total": seconds, "peak": peak_resident(), "imports": before, **report}))


def _run(scan: str, checkpoint: str, out: Path, options: dict, config: list[str] | None) -> dict:
    command = [sys.executable, "-W", "ignore", __file__, "child", "--scan", scan, "--checkpoint", checkpoint]
    command += ["--out", str(out), "--options", repr(json.dumps(options))]
    if config:
        command += ["--config", repr(json.dumps(config))]
    process = subprocess.run(command, capture_output=True, encoding="utf-8", errors="replace")
    for line in process.stdout.splitlines():
        if line.startswith("RESULT"):
            return json.loads(line[6:])
    raise SystemExit(process.stderr[-3000:] + process.stdout[-2000:])


def _mask(folder: Path) -> np.ndarray:
    return np.asarray(nib.load(next(folder.glob("*_fracture.nii.gz"))).dataobj) > 0


def _dice(a: np.ndarray, b: np.ndarray) -> float:
    return float(2 * np.count_nonzero(a & b) / max(np.count_nonzero(a) + np.count_nonzero(b), 1))


def decisions(scan: str, rounds: int = 2, runtime: str = "auto", out: str = "runs/decision_benchmark") -> None:
    """Run the shipped weights by voxel (as version 0.6) and with one decision per vertebra in turn, and print ratios.

    Args:
        scan: CT.
        rounds: runs of each.
        runtime: inference backend.
        out: folder of the masks.
    """
    checkpoint = str(ROOT / "bundle" / "models" / "model.pt")
    grid = {"spacing": [1.5, 1.5, 1.5], "patch_size": [128, 160], "runtime": runtime}
    print("| round | decision | s | ratio | peak MiB | windows, coarse and fine | seconds by phase |\n" + "| --- " * 7 + "|")
    for n in range(rounds):
        rows = {d: _run(scan, checkpoint, Path(out) / d, {**grid, "decision": d}, None) for d in ("voxel", "vertebra")}
        for decision, row in rows.items():
            phases = ", ".join(f"{p} {s:.1f}" for p, s in row["seconds"].items())
            ratio, windows = row["total"] / rows["voxel"]["total"], "{coarse_windows}, {fine_windows}".format(**row["windows"])
            print(
                f"| {n + 1} | {decision} | {row['total']:.1f} | {ratio:.2f} | {row['peak'] / 2**20:.0f} | {windows} | {phases} |",
                flush=True,
            )


def compare(
    scan: str,
    checkpoint: str,
    out: str = "runs/inference_benchmark",
    variants: tuple[str, ...] = tuple(VARIANTS),
    config: list[str] | None = None,
    label: str | None = None,
    grid: dict[str, list] | None = None,
) -> None:
    """Run variants one after another on the same scan with the same weights, and print ratios to the first one.

    Args:
        scan: CT.
        checkpoint: weights.
        out: folder of the masks.
        variants: names of ``VARIANTS``.
        config: overlays of the inference config that the weights were trained with.
        label: reference mask for a column of DSC.
        grid: ``spacing`` and ``patch_size`` of the weights, in place of 1 mm and 256 x 256.
    """
    rows, masks = {}, {}
    reference = None if label is None else np.asarray(nib.load(label).dataobj) > 0
    for name in variants:
        folder = Path(out) / name.replace(" ", "_").replace(",", "")
        rows[name] = _run(scan, checkpoint, folder, VARIANTS[name] | (grid or {}), config)
        masks[name] = _mask(folder)
        print(f"{name}: {rows[name]['total']:.1f} s", file=sys.stderr, flush=True)
    first = next(iter(rows))
    print("\n| path | s | times as fast | peak MiB | ratio | DSC to the stock path | DSC to the reference |")
    print("| --- | --- | --- | --- | --- | --- | --- |")
    for name, row in rows.items():
        dice = "" if reference is None else f"{_dice(masks[name], reference):.3f}"
        print(
            f"| {name} | {row['total']:.1f} | {rows[first]['total'] / row['total']:.1f} | {row['peak'] / 2**20:.0f} | "
            f"{row['peak'] / rows[first]['peak']:.2f} | {_dice(masks[name], masks[first]):.4f} | {dice} |"
        )
    print("\n| seconds in | " + " | ".join(n for n in rows if rows[n]["seconds"]) + " |")
    print("| --- " * (1 + sum(bool(r["seconds"]) for r in rows.values())) + "|")
    phases = list(dict.fromkeys(p for r in rows.values() for p in (r["seconds"] or {})))
    timed = [r for r in rows.values() if r["seconds"]]
    for phase in phases:
        print(f"| {phase} | " + " | ".join(f"{r['seconds'].get(phase, 0):.2f}" for r in timed) + " |")
    print(
        "| loading networks, writing tables and page | "
        + " | ".join(f"{r['total'] - sum(r['seconds'].values()):.2f}" for r in timed)
        + " |"
    )
    shares = [1 - r["seconds"]["network"] / sum(r["seconds"].values()) for r in timed]
    print("| share of the scan's time outside the network | " + " | ".join(f"{s:.0%}" for s in shares) + " |")
    print(
        "| windows, coarse and fine pass | "
        + " | ".join("{coarse_windows}, {fine_windows}".format(**r["windows"]) for r in timed)
        + " |"
    )


def cohort(
    scans: str, rounds: int = 3, numbers: tuple[int, ...] = (1, 2), runtime: str = "torch", out: str = "runs/cohort_benchmark"
) -> None:
    """Run the shipped weights on a folder with scans one by one and several at a time, in turn, and print ratios to the first.

    Args:
        scans: folder of CTs.
        rounds: runs of each.
        numbers: values of ``concurrent_scans``.
        runtime: inference backend.
        out: folder of the masks.
    """
    checkpoint, count = str(ROOT / "bundle" / "models" / "model.pt"), len(list(Path(scans).glob("*.nii.gz")))
    rows: dict[int, list[dict]] = {n: [] for n in numbers}
    grid = {"spacing": [1.5, 1.5, 1.5], "patch_size": [128, 160], "runtime": runtime}
    for n in range(rounds):
        for number in numbers if n % 2 == 0 else reversed(numbers):
            row = _run(scans, checkpoint, Path(out) / str(number), {**grid, "concurrent_scans": number}, None)
            rows[number].append(row)
            print(f"round {n + 1}, {number} at a time: {row['total']:.1f} s", file=sys.stderr, flush=True)
    print(
        f"{count} scans\n\n| scans at a time | s (range) | s per scan | times as fast (range) | peak MiB |\n" + "| --- " * 5 + "|"
    )
    for number in numbers:
        totals = [row["total"] for row in rows[number]]
        ratios = [a["total"] / b for a, b in zip(rows[numbers[0]], totals, strict=True)]
        peak = max(row["peak"] for row in rows[number]) / 2**20
        print(
            f"| {number} | {np.median(totals):.1f} ({min(totals):.1f} to {max(totals):.1f}) | {np.median(totals) / count:.1f} | "
            f"{np.median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f}) | {peak:.0f} |"
        )


def growth(
    scan: str,
    checkpoint: str,
    out: str = "runs/inference_growth",
    lengths: tuple[int, ...] = (100, 300, 600, 1200, 2000),
    runtime: str = "auto",
    config: list[str] | None = None,
    grid: dict[str, list] | None = None,
) -> None:
    """Run on crops and repetitions of a scan, and print seconds and memory by length.

    Args:
        scan: CT; longer scans repeat it.
        checkpoint: weights.
        out: folder of the scans and masks.
        lengths: numbers of slices.
        runtime: inference backend of the networks.
        config: overlays of the inference config that the weights were trained with.
        grid: ``spacing`` and ``patch_size`` of the weights, in place of 1 mm and 256 x 256.
    """
    source = nib.load(scan)
    data = np.asarray(source.dataobj)
    rows = []
    for length in lengths:
        repetitions = -(-length // data.shape[2])
        path = Path(out) / f"scan_{length}.nii.gz"
        path.parent.mkdir(parents=True, exist_ok=True)
        if not path.exists():
            nib.save(nib.Nifti1Image(np.concatenate([data] * repetitions, axis=2)[:, :, :length], source.affine), path)
        row = _run(str(path), checkpoint, Path(out) / str(length), {"runtime": runtime} | (grid or {}), config)
        rows.append((length, 2 * data.shape[0] * data.shape[1] * length / 2**20, row))
        print(f"{length}: {row['total']:.1f} s, {row['peak'] / 2**20:.0f} MiB", file=sys.stderr, flush=True)
    print("\n| slices | scan as 16 bit (MiB) | s per scan | of these network | peak MiB | predicted at most | windows |")
    print("| --- | --- | --- | --- | --- | --- | --- |")
    for length, size, row in rows:
        windows = sum(row["windows"].values())
        print(
            f"| {length} | {size:.0f} | {sum(row['seconds'].values()):.1f} | {row['seconds']['network']:.1f} | "
            f"{row['peak'] / 2**20:.0f} | {row['memory_mib']['predicted']} | {windows} |"
        )
    sizes, peaks = (np.array([v for v in values]) for values in zip(*((s, r["peak"] / 2**20) for _, s, r in rows), strict=True))
    slope, start = np.polyfit(sizes, peaks, 1)
    deviation = float(np.abs(peaks - (slope * sizes + start)).max())
    print(f"\nPeak = {start:.0f} MiB + {slope:.2f} x the scan as 16 bit; largest deviation from this line {deviation:.0f} MiB.")


if __name__ == "__main__":
    fire.Fire(
        {"data": data, "scan": scan, "compare": compare, "decisions": decisions, "cohort": cohort, "growth": growth, "child": child}
    )
