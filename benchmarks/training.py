# SPDX-License-Identifier: Apache-2.0
"""Speed of training: this bundle, a plain MONAI pipeline and nnU-Net v2, compared in one run.

    python benchmarks/training.py compare --data DIR --nnunet_python PATH    # rounds in turn, a table and ratios
    python benchmarks/training.py start --data DIR    # seconds until the training data are ready; size of the cache

All train the network of ``configs/train.yaml`` on the same scans with the same patch size, batch size and number of workers:

* ``cache``: ``cache_dir``, scans in a folder that is mapped into memory; ``memory``: MONAI's ``CacheDataset``, the default
* ``device``: ``cache`` with ``configs/device_augment.yaml``
* ``plain``: MONAI's ``Dataset`` and ``DataLoader`` with the same transforms: every epoch reads and resamples the scans
* ``nnunet``: nnU-Net v2's data set (blosc2), data loader, augmentation, loss, optimizer and training step, on scans resampled by
  this bundle, so that slices have equal grids. It requires a Python with ``nnunetv2`` and this bundle's packages.

Rounds run one after the other, each in its own process, for its own peak memory (proportional set size, workers included). The
first steps of a round, which start workers and fill queues, are not counted.
"""

from __future__ import annotations

import json
import os
import platform
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import fire
import numpy as np
from tqdm import tqdm

ROOT = Path(__file__).resolve().parents[1]
PIPELINES = ("cache", "plain", "nnunet")
# As in `make demo`: freed memory stays in the process, since training allocates the same large buffers in every step.
MALLOC = {"MALLOC_MMAP_MAX_": "0", "MALLOC_TRIM_THRESHOLD_": "17179869184"}


def _settings(overrides: Any) -> dict[str, Any]:
    """Ids of train.yaml from JSON, which Fire may have parsed already."""
    return overrides if isinstance(overrides, dict) else json.loads(overrides)


def parser_of(pipeline: str, data: str, cache_dir: str, overrides: dict[str, Any]) -> Any:
    """MONAI's parser of the training config for a pipeline of this bundle; the working directory must be the bundle."""
    from monai.bundle import ConfigParser

    parser = ConfigParser()
    overlay = ["configs/device_augment.yaml"] if pipeline == "device" else []
    parser.read_config(["configs/train.yaml", *overlay])
    parser.read_meta("configs/metadata.json")
    settings = {"bundle_root": ".", "dataset_dir": data, "check_data": "off", "preflight": None, "train::handlers": [], **overrides}
    for key, value in settings.items():
        parser[key] = value
    if pipeline in ("cache", "device"):
        parser["cache_dir"] = cache_dir
    elif pipeline == "plain":
        parser["train::dataset"] = {
            "_target_": "Dataset",
            "data": parser["train::dataset"]["data"],
            "transform": "@train::preprocessing",
        }
    return parser


def convolution_rate(device: Any, dtype: Any, seconds: float = 2.0) -> float:
    """Operations per second of a 3x3 convolution of 64 channels on a device, channels-last, forward."""
    import torch

    x = torch.randn(16, 64, 128, 160, device=device, dtype=dtype).contiguous(memory_format=torch.channels_last)
    layer = torch.nn.Conv2d(64, 64, 3, padding=1, bias=False).to(device=device, dtype=dtype, memory_format=torch.channels_last)
    operations = 2 * x[:, :1].numel() * 64 * 64 * 9

    def run(times: int) -> float:
        begin = time.perf_counter()
        for _ in range(times):
            layer(x)
        if torch.device(device).type == "cuda":
            torch.cuda.synchronize()
        return time.perf_counter() - begin

    with torch.no_grad():
        run(3)
        times = max(int(3 * seconds / run(3)), 3)
        return operations * times / run(times)


def arithmetic(network: Any, image: Any) -> float:
    """Operations of a forward and backward pass per slice of ``image`` (B, C, H, W)."""
    from torch.utils.flop_counter import FlopCounterMode

    with FlopCounterMode(display=False) as counter:
        network(image).sum().backward()
    network.zero_grad()
    return counter.get_total_flops() / len(image)


def measure(pipeline: str, data: str, cache_dir: str, steps: int, warm_up: int, overrides: Any = "{}") -> None:
    """Train in this process and print a line of JSON with seconds of waiting, seconds of computing and slices of every step."""
    os.chdir(ROOT / "bundle")
    sys.path.insert(0, ".")
    import torch
    from ignite.engine import Events
    from monai.utils import set_determinism

    set_determinism(0)
    parser = parser_of(pipeline, data, cache_dir, _settings(overrides))
    parser["epochs"] = 10**6
    trainer = parser.get_parsed_content("train::trainer")
    rows: list[list[float]] = []
    last_image: list[Any] = []
    clock = {"start": time.perf_counter(), "batch": 0.0, "slices": 0.0}

    def batch_ready(engine: Any) -> None:
        clock["batch"] = time.perf_counter()
        clock["slices"] = len(engine.state.batch["image"])
        last_image[:] = [engine.state.batch["image"]]

    def step_completed(engine: Any) -> None:
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        now = time.perf_counter()
        rows.append([clock["batch"] - clock["start"], now - clock["batch"], clock["slices"]])
        clock["start"] = now
        if len(rows) == steps + warm_up:
            engine.terminate()

    trainer.add_event_handler(Events.GET_BATCH_COMPLETED, batch_ready)
    trainer.add_event_handler(Events.ITERATION_COMPLETED, step_completed)
    trainer.run()
    gpu = torch.cuda.max_memory_allocated() / 2**20 if torch.cuda.is_available() else 0.0
    network, device = parser.get_parsed_content("network"), parser.get_parsed_content("device")
    dtype = parser.get_parsed_content("amp_dtype") if parser.get_parsed_content("amp") else torch.float32
    image = last_image[0].as_subclass(torch.Tensor).to(device)
    per_slice, rate = arithmetic(network, image), convolution_rate(device, dtype)
    utilisation = per_slice * sum(r[2] for r in rows[warm_up:]) / sum(r[1] for r in rows[warm_up:]) / rate
    print(json.dumps({"rows": rows[warm_up:], "gpu_mib": gpu, "rate": rate, "utilisation": utilisation}), flush=True)


def export(data: str, cache_dir: str, out: str, overrides: Any = "{}") -> None:
    """Write the resampled training scans and their labels as arrays, for nnU-Net."""
    os.chdir(ROOT / "bundle")
    sys.path.insert(0, ".")
    parser = parser_of("cache", data, cache_dir, {**_settings(overrides), "crop": []})
    parser["train::preprocessing::transforms"] = "$@load + @resample"
    dataset = parser.get_parsed_content("train::dataset")
    Path(out).mkdir(parents=True)
    for index in range(len(dataset)):
        item = dataset[index]
        np.savez(Path(out) / f"case{index:04d}.npz", image=np.asarray(item["image"]), label=np.asarray(item["label"]))


def _tree(pid: int) -> list[int]:
    """Running processes that a process started, itself included."""
    try:
        text = " ".join(p.read_text() for p in Path(f"/proc/{pid}/task").glob("*/children"))
    except OSError:
        return []
    return [pid, *(q for child in text.split() for q in _tree(int(child)))]


def _peak(process: subprocess.Popen, peaks: list[float]) -> None:
    """Append the peak proportional set size (MiB) of a process and its children."""
    peak = 0.0
    while process.poll() is None:
        total = 0
        for pid in _tree(process.pid):
            try:
                lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
            except OSError:
                continue
            total += next((int(line.split()[1]) for line in lines if line.startswith("Pss:")), 0)
        peak = max(peak, total / 1024)
        time.sleep(1.0)
    peaks.append(peak)


def _run(command: Sequence[str], log: Path, **environment: str) -> tuple[dict[str, Any], float]:
    """Last line of a process's output, parsed as JSON, and its peak memory (MiB).

    Raises:
        SystemExit: with the end of its log, when the process fails.
    """
    peaks: list[float] = []
    with log.open("w") as errors:
        process = subprocess.Popen(
            list(command), stdout=subprocess.PIPE, stderr=errors, text=True, env={**os.environ, **MALLOC, **environment}
        )
        watch = threading.Thread(target=_peak, args=(process, peaks))
        watch.start()
        output, _ = process.communicate()
        watch.join()
    if process.returncode:
        raise SystemExit(f"{' '.join(command)}: failed\n" + "\n".join(log.read_text().splitlines()[-8:]))
    lines = output.strip().splitlines()
    return (json.loads(lines[-1]) if lines else {}), peaks[0]


def compare(
    data: str,
    nnunet_python: str | None = None,
    pipelines: Sequence[str] = PIPELINES,
    rounds: int = 3,
    steps: int = 12,
    warm_up: int = 7,
    workers: int = 2,
    work: str | None = None,
    **overrides: Any,
) -> None:
    """Measure pipelines in turn and print slices per second, time waited for data, memory and ratios.

    Args:
        data: folder of a data set with datalist.json.
        nnunet_python: Python with nnunetv2; None: its row is left out.
        pipelines: names of the list above; ratios are of the first to each other.
        rounds: rounds of every pipeline.
        steps: measured steps of a round.
        warm_up: steps before those.
        workers: worker processes of the data loaders.
        work: folder of the caches; a temporary one by default.
        overrides: ids of train.yaml, such as ``--batch_size 8``.
    """
    pipelines = [pipelines] if isinstance(pipelines, str) else list(pipelines)
    if "nnunet" in pipelines and not (nnunet_python and Path(nnunet_python).is_file()):
        print(f"nnU-Net is left out: --nnunet_python={nnunet_python} must be a Python with nnunetv2")
        pipelines.remove("nnunet")
    folder = Path(work or tempfile.mkdtemp(prefix="training_benchmark_"))
    folder.mkdir(parents=True, exist_ok=True)
    settings = json.dumps({"num_workers": workers, **overrides})
    here, cache = [sys.executable, "-W", "ignore", __file__], str(folder / "cache")
    data = str(Path(data).resolve())
    if "nnunet" in pipelines and not (folder / "nnunet" / "arrays").is_dir():
        _run([*here, "export", data, cache, str(folder / "nnunet" / "arrays"), "--overrides", settings], folder / "export.log")
    results: dict[str, list[tuple[np.ndarray, float, float]]] = {p: [] for p in pipelines}
    utilisation: dict[str, str] = {}
    try:
        for number, pipeline in tqdm([(n, p) for n in range(rounds) for p in pipelines], desc="rounds"):
            common = ["--steps", str(steps), "--warm_up", str(warm_up), "--overrides", settings]
            command = [*here, "measure", pipeline, data, cache, *common]
            if pipeline == "nnunet":
                script = str(Path(__file__).with_name("training_nnunet.py"))
                command = [str(nnunet_python), "-W", "ignore", script, str(folder / "nnunet"), *common]
            measured, peak = _run(command, folder / f"{pipeline}{number}.log", nnUNet_n_proc_DA=str(workers))
            results[pipeline].append((np.array(measured["rows"]), peak, measured["gpu_mib"]))
            if "utilisation" in measured:
                utilisation[pipeline] = f"{100 * measured['utilisation']:.0f} % of {measured['rate'] / 1e9:.0f} G"
    finally:
        if work is None:
            shutil.rmtree(folder, ignore_errors=True)
    _table(results, rounds, steps)
    for pipeline, text in utilisation.items():
        print(f"{pipeline}: computing at {text} operations/s of a single convolution (last round)")


def _table(results: dict[str, list[tuple[np.ndarray, float, float]]], rounds: int, steps: int) -> None:
    """Print medians over the rounds, ranges of the speed, and ratios of steps per second of the first pipeline to the others."""
    from importlib.metadata import version

    versions = ", ".join(f"{name} {version(name)}" for name in ("torch", "monai"))
    print(f"\n{platform.platform()}, {os.cpu_count()} cores; {versions}; {rounds} rounds of {steps} steps\n")
    print("| pipeline | slices/s (range) | steps/s | waiting for data (%) | computing a step (s) | peak MiB | GPU MiB |")
    print("| --- | --- | --- | --- | --- | --- | --- |")
    speed = {}
    for name, measured in results.items():
        slices = [float(r[:, 2].sum() / r[:, :2].sum()) for r, _, _ in measured]
        speed[name] = [len(r) / float(r[:, :2].sum()) for r, _, _ in measured]
        waited = [100 * float(r[:, 0].sum() / r[:, :2].sum()) for r, _, _ in measured]
        computed = [float(np.median(r[:, 1])) for r, _, _ in measured]
        print(
            f"| {name} | {np.median(slices):.2f} ({min(slices):.2f} to {max(slices):.2f}) | {np.median(speed[name]):.3f} | "
            f"{np.median(waited):.1f} | {np.median(computed):.2f} | {max(p for _, p, _ in measured):.0f} | "
            f"{max(g for *_, g in measured):.0f} |"
        )
    first, *others = speed
    for other in others:
        ratios = [a / b for a, b in zip(speed[first], speed[other], strict=True)]
        print(f"\n{first} : {other} = {np.median(ratios):.2f} steps per second ({min(ratios):.2f} to {max(ratios):.2f})", end="")
    print()


def start(data: str, workers: int = 2, **overrides: Any) -> None:
    """Print the seconds until the training data set is ready: in memory, with an empty and with a filled cache; and its size."""
    os.chdir(ROOT / "bundle")
    sys.path.insert(0, ".")
    with tempfile.TemporaryDirectory() as folder:
        for name, pipeline in (("memory", "memory"), ("empty cache", "cache"), ("filled cache", "cache")):
            parser = parser_of(pipeline, str(Path(data).resolve()), folder, {"num_workers": workers, **overrides})
            begin = time.perf_counter()
            parser.get_parsed_content("train::dataset")
            print(f"{name}: {time.perf_counter() - begin:.2f} s", flush=True)
        size = sum(f.stat().st_size for f in Path(folder).rglob("*") if f.is_file())
        print(f"{size / 2**20:.0f} MiB on disk")


if __name__ == "__main__":
    fire.Fire({"compare": compare, "start": start, "measure": measure, "export": export})
