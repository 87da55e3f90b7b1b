# SPDX-License-Identifier: Apache-2.0
"""Cost of the networks of a suite: parameters, multiply-adds and time per volume, measured in turn in one process."""

from __future__ import annotations

import copy
import json
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from monai.bundle import ConfigParser
from torch import nn
from torch.utils.flop_counter import FlopCounterMode
from tqdm import tqdm

from ...core.config_package import localise
from ...core.files import write_text
from ...core.paths import BUNDLE
from ...data.datalist import read_datalist
from .config import load_config
from .definition import Suite
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


def _prepare(folder: Path, case: dict[str, str], device: str | None) -> tuple[dict[str, Any], Callable[[], Any], str]:
    """Size of a run's network, a pass of it over a volume, and its device; the run's config is needed, its weights are not."""
    parser = ConfigParser(localise(load_config(folder / TRAINING.config)))
    parser["bundle_root"], parser["dataset_dir"] = str(BUNDLE), str(Path(case["image"]).parent)
    parser["device"] = device or parser["device"]
    network, inferer = parser.get_parsed_content("network").eval(), parser.get_parsed_content("validate::inferer")
    where, patch = str(parser.get_parsed_content("device")), list(parser.get_parsed_content("patch_size"))
    image = parser.get_parsed_content("validate::preprocessing")(dict(case))["image"].as_tensor()[None].to(where)
    parameters = sum(p.numel() for p in network.parameters()) / 1e6
    cost = {"parameters_m": parameters, "multiply_adds_g": multiply_adds(network, patch), "patch": patch}
    return {**cost, "volume": list(image.shape[2:]), "seconds": float("inf")}, partial(inferer, image, network), where


def measure_cost(suite: Suite, context: SuiteContext, rounds: int = 5, device: str | None = None) -> dict[str, dict[str, Any]]:
    """Measure the networks of a suite on one volume of the test cases, round by round in turn; also written to cost.json.

    Members that are other programs are left out.

    Each network has ``rounds`` passes behind one that warms up; the shortest counts. By variant: parameters (10^6), multiply-adds
    (10^9, of one patch), seconds per volume, GPU memory (MiB) on a GPU.
    """
    folders = {v.name: context.folder(suite.first_run(v)) for v in suite.variants if v.needs is None}
    _, sections = read_datalist(context.datalists[None])
    case = next(c for section in ("testing", "validation", "training") for c in sections[section])
    prepared = {n: _prepare(f, case, device) for n, f in folders.items() if (f / TRAINING.config).is_file()}
    for turn in tqdm(range(rounds + 1), desc="cost, rounds", unit="round"):
        for cost, infer, where in prepared.values():
            cuda = where.startswith("cuda")
            if cuda:
                torch.cuda.reset_peak_memory_stats(where)
                torch.cuda.synchronize(where)
            start = time.perf_counter()
            with torch.inference_mode():
                infer()
            if cuda:
                torch.cuda.synchronize(where)
                cost["gpu_mib"] = round(torch.cuda.max_memory_allocated(where) / (1 << 20))
            if turn > 0:
                cost["seconds"] = min(cost["seconds"], time.perf_counter() - start)
    costs = {name: cost for name, (cost, _, _) in prepared.items()}
    write_text(context.root / suite.name / "cost.json", json.dumps({"machine": machine(), "cost": costs}, indent=2) + "\n")
    return costs
