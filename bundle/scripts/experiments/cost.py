# SPDX-License-Identifier: Apache-2.0
"""What each network of a suite costs: parameters, multiply-adds, time of a volume; all measured in turn in one process."""

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

from ..core.files import write_text
from ..core.paths import BUNDLE
from ..data.datalist import read_datalist
from .config import digest, read_config
from .member import TRAIN, Place
from .record import machine
from .suite import Run, Suite


def multiply_adds(network: nn.Module, size: Sequence[int], channels: int = 1) -> float | None:
    """10^9 multiply-adds of one input of ``size``; None where the network cannot be counted without data.

    Counted on PyTorch's meta device, where attention and recurrent layers are made of products that the counter knows; on a CPU it
    misses them.
    """
    shadow = copy.deepcopy(network).eval().to("meta")
    try:
        with torch.no_grad(), FlopCounterMode(display=False) as counter:
            shadow(torch.empty(1, channels, *size, device="meta"))
    except (NotImplementedError, RuntimeError):
        return None
    return counter.get_total_flops() / 2e9


def _parser(folder: Path, case: dict[str, str], device: str | None) -> ConfigParser:
    parser = ConfigParser(read_config(folder / TRAIN))
    parser["bundle_root"] = str(BUNDLE)
    parser["dataset_dir"] = str(Path(case["image"]).parent)
    if device:
        parser["device"] = device
    return parser


def measure(suite: Suite, place: Place, rounds: int = 5, device: str | None = None) -> dict[str, dict[str, Any]]:
    """Measure all members of a suite on one volume of the test cases, round by round in turn.

    Args:
        suite: what was run.
        place: where; its members need their configs, not their weights.
        rounds: passes over the volume by each network; the shortest counts.
        device: as for ``run``.

    Returns:
        By member: parameters and multiply-adds (10^6, 10^9, of one patch), seconds a volume, GPU memory (MiB) where there is one.
    """
    kept = place.root / suite.name / "cost.json"
    folders = {m.name: place.folder(Run(m, suite.seeds[0], 0 if suite.folds else None)) for m in suite.members}
    folders = {name: folder for name, folder in folders.items() if (folder / TRAIN).is_file()}
    key = {
        "configs": {n: digest(read_config(f / TRAIN)) for n, f in folders.items()},
        "machine": machine(),
        "rounds": rounds,
    }
    key = json.loads(json.dumps(key))
    if kept.is_file():
        known = json.loads(kept.read_text(encoding="utf-8"))
        if known.get("of") == key:
            return dict(known["cost"])
    _, sections = read_datalist(place.datalists[None])
    case = next(c for section in ("testing", "validation", "training") for c in sections[section])
    found: dict[str, dict[str, Any]] = {}
    ready = {}
    for name, folder in folders.items():
        parser = _parser(folder, case, device)
        network = parser.get_parsed_content("network").eval()
        patch = list(parser.get_parsed_content("patch_size"))
        found[name] = {
            "parameters_m": sum(p.numel() for p in network.parameters()) / 1e6,
            "multiply_adds_g": multiply_adds(network, patch),
            "patch": patch,
            "seconds": float("inf"),
        }
        image = parser.get_parsed_content("validate::preprocessing")(dict(case))["image"].as_tensor()[None]
        where = torch.device(str(parser.get_parsed_content("device")))
        ready[name] = (network, parser.get_parsed_content("validate::inferer"), image.to(where), where)
    with torch.inference_mode():
        for turn in tqdm(range(rounds + 1), desc="cost, rounds", unit="round"):  # the first is not counted
            for name, (network, inferer, image, where) in ready.items():
                if where.type == "cuda":
                    torch.cuda.reset_peak_memory_stats(where)
                    torch.cuda.synchronize(where)
                start = time.perf_counter()
                inferer(image, network)
                if where.type == "cuda":
                    torch.cuda.synchronize(where)
                    found[name]["gpu_mib"] = round(torch.cuda.max_memory_allocated(where) / (1 << 20))
                if turn > 0:
                    found[name]["seconds"] = min(found[name]["seconds"], time.perf_counter() - start)
    shape = list(next(iter(ready.values()))[2].shape[2:]) if ready else []
    for entry in found.values():
        entry["volume"] = shape
    write_text(kept, json.dumps({"of": key, "cost": found}, indent=2) + "\n")
    return found
