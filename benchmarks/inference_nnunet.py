# SPDX-License-Identifier: Apache-2.0
"""Inference of the shipped weights compared with nnU-Net v2's 2D predictor, from file to file: seconds and peak memory.

    python benchmarks/inference.py scan --out DIR --slices 300
    python benchmarks/inference_nnunet.py compare --scan DIR/torso_300.nii.gz --nnunet_python VENV/bin/python --rounds 3

All of nnU-Net is its own code: reading, cropping, resampling, tiles with half overlap, export on the grid of the scan. Only its
plans are written here: grid, patch and widths near those of the shipped weights, two classes. Its weights are random, which changes
no time: it predicts every tile of a scan. Each run is a process of its own, in turn; imports are not timed.
"""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
import time
from pathlib import Path
from statistics import median
from typing import Any

import fire

ROOT = Path(__file__).resolve().parents[1]
SPACING = [1.5, 1.5]
PATCH = [128, 160]
FEATURES = [16, 32, 64, 128, 192]
DATASET = {"channel_names": {"0": "CT"}, "labels": {"background": 0, "fracture": 1}, "numTraining": 1, "file_ending": ".nii.gz"}
SIDES = ("nnU-Net, mirrored", "nnU-Net", "this bundle")


def plans(patch: list[int], spacing: list[float], features: list[int]) -> dict[str, Any]:
    """nnU-Net's plans of a 2D configuration of sagittal slices, in the form of its planner (version 2.8)."""
    from training_nnunet import plans as shared

    result = shared(patch, batch=16)
    stages = len(features)
    convolutions = "torch.nn.modules"
    architecture = {
        "network_class_name": "dynamic_network_architectures.architectures.unet.PlainConvUNet",
        "arch_kwargs": {
            "n_stages": stages,
            "features_per_stage": features,
            "conv_op": f"{convolutions}.conv.Conv2d",
            "kernel_sizes": [[3, 3]] * stages,
            "strides": [[1, 1]] + [[2, 2]] * (stages - 1),
            "n_conv_per_stage": [2] * stages,
            "n_conv_per_stage_decoder": [2] * (stages - 1),
            "conv_bias": True,
            "norm_op": f"{convolutions}.instancenorm.InstanceNorm2d",
            "norm_op_kwargs": {"eps": 1e-05, "affine": True},
            "dropout_op": None,
            "dropout_op_kwargs": None,
            "nonlin": "torch.nn.LeakyReLU",
            "nonlin_kwargs": {"inplace": True},
        },
        "_kw_requires_import": ["conv_op", "norm_op", "dropout_op", "nonlin"],
    }
    resampling = {"order": 1, "is_seg": False, "order_z": 0, "force_separate_z": None}  # of probabilities, as planned by nnU-Net
    result["configurations"]["2d"] |= {
        "spacing": spacing,
        "normalization_schemes": ["CTNormalization"],
        "architecture": architecture,
        "resampling_fn_probabilities_kwargs": resampling,
    }
    intensities = {"mean": 200.0, "std": 250.0, "percentile_00_5": -100.0, "percentile_99_5": 1300.0}
    # Arrays are read as (z, y, x); sagittal slices are planes of x, with y and z in the plane.
    return result | {
        "foreground_intensity_properties_per_channel": {"0": intensities},
        "transpose_forward": [2, 1, 0],
        "transpose_backward": [2, 1, 0],
    }


def child(scan: str, out: str, mirror: bool, device: str, threads: int) -> None:
    """Run nnU-Net's predictor in this process and print its times and memory as JSON; needs nnunetv2."""
    for name in ("raw", "preprocessed", "results"):
        os.environ.setdefault(f"nnUNet_{name}", str(Path(out, name)))
    import torch
    from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor
    from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer
    from nnunetv2.utilities.plans_handling.plans_handler import PlansManager

    torch.set_num_threads(threads)
    model = Path(out, "model")
    (model / "fold_0").mkdir(parents=True, exist_ok=True)
    written = plans(PATCH, SPACING, FEATURES)
    manager = PlansManager(written)
    network = nnUNetTrainer.build_network_architecture(
        manager, manager.get_configuration("2d"), 1, 2, enable_deep_supervision=False
    )
    (model / "plans.json").write_text(json.dumps(written))
    (model / "dataset.json").write_text(json.dumps(DATASET))
    checkpoint = {
        "network_weights": network.state_dict(),
        "trainer_name": "nnUNetTrainer",
        "init_args": {"configuration": "2d"},
        "inference_allowed_mirroring_axes": (0, 1),
    }
    torch.save(checkpoint, model / "fold_0" / "checkpoint_final.pth")
    parameters = sum(p.numel() for p in network.parameters()) / 1e6
    start = time.perf_counter()
    stdout, sys.stdout = sys.stdout, sys.stderr  # lines of nnU-Net
    predictor = nnUNetPredictor(use_mirroring=mirror, device=torch.device(device), perform_everything_on_device=device != "cpu")
    predictor.initialize_from_trained_model_folder(str(model), (0,))
    predictor.predict_from_files_sequential([[scan]], [str(Path(out, "prediction"))])
    sys.stdout = stdout
    seconds = time.perf_counter() - start
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    gpu = torch.cuda.max_memory_allocated() / 2**20 if device.startswith("cuda") else 0.0
    print("RESULT" + json.dumps({"total": seconds, "peak": peak, "gpu": gpu, "parameters": parameters}))


def _run_nnunet(python: str, scan: Path, out: Path, mirror: bool, device: str, threads: int) -> dict[str, float]:
    command = [python, "-W", "ignore", __file__, "child", "--scan", str(scan), "--out", str(out)]
    command += ["--mirror", str(mirror), "--device", device, "--threads", str(threads)]
    process = subprocess.run(command, capture_output=True, encoding="utf-8", errors="replace")
    for line in process.stdout.splitlines():
        if line.startswith("RESULT"):
            return json.loads(line[6:])
    raise SystemExit(process.stderr[-3000:] + process.stdout[-2000:])


def _run_bundle(scan: Path, out: Path, device: str) -> dict[str, float]:
    """Run the shipped weights by ``benchmarks/inference.py``, whose clock starts after the imports as well."""
    from inference import _run

    options = {"spacing": [SPACING[0], *SPACING], "patch_size": PATCH, "runtime": "torch", "device": device}
    row = _run(str(scan), str(ROOT / "bundle" / "models" / "model.pt"), out, options, None)
    return {"total": row["total"], "peak": row["peak"] / 2**20}


def compare(
    scan: str,
    nnunet_python: str,
    rounds: int = 3,
    sides: tuple[str, ...] = SIDES,
    out: str = "runs/nnunet_inference",
    device: str = "cpu",
    threads: int = 2,
) -> None:
    """Run both sides in turn and print medians with ranges, and ratios by round.

    Args:
        scan: CT in NIfTI format.
        nnunet_python: Python of an environment with nnunetv2.
        rounds: runs of each side.
        sides: which of ``SIDES``; the first is the one that ratios refer to.
        out: folder of models and masks.
        device: such as ``cpu`` or ``cuda:0``.
        threads: threads of nnU-Net; this bundle takes two on a CPU.
    """
    unknown = [s for s in sides if s not in SIDES]
    if unknown:
        raise SystemExit(f"sides: {unknown} is not one of {list(SIDES)}")
    file, root = Path(scan).resolve(), Path(out).resolve()
    if not file.is_file():
        raise SystemExit(f"{file}: not found; `python benchmarks/inference.py scan --out DIR` writes a CT")
    rows: dict[str, list[dict[str, float]]] = {side: [] for side in sides}
    for n in range(rounds):
        for side in sides:
            folder = root / side.replace(",", "").replace(" ", "_")
            if side == "this bundle":
                row = _run_bundle(file, folder, device)
            else:
                row = _run_nnunet(nnunet_python, file, folder, side.endswith("mirrored"), device, threads)
            rows[side].append(row)
            print(f"round {n + 1}, {side}: {row['total']:.1f} s", file=sys.stderr, flush=True)
            (root / "rows.json").write_text(json.dumps(rows, indent=1))
    first = sides[0]
    print("| from file to file | s (range) | times as fast (range) | peak MiB | ratio |")
    print("| --- " * 5 + "|")
    for side in sides:
        totals, peaks = ([r[key] for r in rows[side]] for key in ("total", "peak"))
        ratios = [a["total"] / b["total"] for a, b in zip(rows[first], rows[side], strict=True)]
        memory = median(peaks) / median(r["peak"] for r in rows[first])
        print(
            f"| {side} | {median(totals):.1f} ({min(totals):.1f} to {max(totals):.1f}) "
            f"| {median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f}) "
            f"| {median(peaks):.0f} | {memory:.2f} |"
        )
    sizes = [r["parameters"] for side in sides for r in rows[side] if "parameters" in r]
    if sizes:
        print(f"\nnnU-Net's network has {sizes[0]:.2f} million parameters, {rounds} round(s), {device}.")


if __name__ == "__main__":
    fire.Fire({"compare": compare, "child": child})
