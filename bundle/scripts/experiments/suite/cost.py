# SPDX-License-Identifier: Apache-2.0
"""Cost of the networks of a suite: parameters, multiply-adds and time per volume, measured in turn in one process."""

from __future__ import annotations

import copy
import json
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from monai.bundle import ConfigParser
from torch import nn
from torch.utils.flop_counter import FlopCounterMode
from tqdm import tqdm

from ...core.files import write_text
from ...core.paths import BUNDLE
from ...data.datalist import read_datalist
from .config import config_hash, load_config
from .definition import Run, Suite
from .record import machine
from .stages import TRAINING, SuiteContext


def multiply_adds(network: nn.Module, size: Sequence[int], channels: int = 1) -> float | None:
    """10^9 multiply-adds of one input of ``size``; None for a network that cannot be counted without data.

    Counted on PyTorch's meta device, where attention and recurrent layers consist of counted products; on a CPU they are missed.
    """
    shadow = copy.deepcopy(network).eval().to("meta")
    try:
        with torch.no_grad(), FlopCounterMode(display=False) as counter:
            shadow(torch.empty(1, channels, *size, device="meta"))
    except (NotImplementedError, RuntimeError):
        return None
    return counter.get_total_flops() / 2e9


class _Timed:
    """Network of a run with one volume, ready for timing.

    Args:
        folder: folder of the run; its config is needed, its weights are not.
        case: image and label files.
        device: as for ``run``.
    """

    def __init__(self, folder: Path, case: dict[str, str], device: str | None) -> None:
        parser = ConfigParser(load_config(folder / TRAINING.config))
        parser["bundle_root"] = str(BUNDLE)
        parser["dataset_dir"] = str(Path(case["image"]).parent)
        if device:
            parser["device"] = device
        self.device = torch.device(str(parser.get_parsed_content("device")))
        self.network = parser.get_parsed_content("network").eval()
        self.inferer = parser.get_parsed_content("validate::inferer")
        image = parser.get_parsed_content("validate::preprocessing")(dict(case))["image"]
        self.image = image.as_tensor()[None].to(self.device)
        patch = list(parser.get_parsed_content("patch_size"))
        self.cost: dict[str, Any] = {
            "parameters_m": sum(p.numel() for p in self.network.parameters()) / 1e6,
            "multiply_adds_g": multiply_adds(self.network, patch),
            "patch": patch,
            "volume": list(self.image.shape[2:]),
            "seconds": float("inf"),
        }

    def measure(self, warm_up: bool) -> None:
        """Time one pass over the volume; the shortest counts."""
        cuda = self.device.type == "cuda"
        if cuda:
            torch.cuda.reset_peak_memory_stats(self.device)
            torch.cuda.synchronize(self.device)
        start = time.perf_counter()
        self.inferer(self.image, self.network)
        if cuda:
            torch.cuda.synchronize(self.device)
            self.cost["gpu_mib"] = round(torch.cuda.max_memory_allocated(self.device) / (1 << 20))
        if not warm_up:
            self.cost["seconds"] = min(self.cost["seconds"], time.perf_counter() - start)


def measure_cost(
    suite: Suite, context: SuiteContext, rounds: int = 5, device: str | None = None
) -> dict[str, dict[str, Any]]:
    """Measure all variants of a suite on one volume of the test cases, round by round in turn; results are cached.

    Args:
        suite: definition.
        context: folder and data.
        rounds: passes over the volume by each network behind one that warms up; the shortest counts.
        device: as for ``run``.

    Returns:
        By variant: parameters (10^6), multiply-adds (10^9, of one patch), seconds per volume, GPU memory (MiB) on a GPU.
    """
    cache = context.root / suite.name / "cost.json"
    fold = 0 if suite.folds else None
    folders = {v.name: context.folder(Run(v, suite.seeds[0], fold)) for v in suite.variants}
    folders = {name: folder for name, folder in folders.items() if (folder / TRAINING.config).is_file()}
    configs = {name: config_hash(load_config(f / TRAINING.config)) for name, f in folders.items()}
    key = json.loads(json.dumps({"configs": configs, "machine": machine(), "rounds": rounds}))
    if cache.is_file():
        cached = json.loads(cache.read_text(encoding="utf-8"))
        if cached.get("of") == key:
            return dict(cached["cost"])
    _, sections = read_datalist(context.datalists[None])
    case = next(c for section in ("testing", "validation", "training") for c in sections[section])
    timed = {name: _Timed(folder, case, device) for name, folder in folders.items()}
    with torch.inference_mode():
        for number in tqdm(range(rounds + 1), desc="cost, rounds", unit="round"):
            for entry in timed.values():
                entry.measure(warm_up=number == 0)
    cost = {name: entry.cost for name, entry in timed.items()}
    write_text(cache, json.dumps({"of": key, "cost": cost}, indent=2) + "\n")
    return cost
