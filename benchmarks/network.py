# SPDX-License-Identifier: Apache-2.0
"""Cost and accuracy of MSFFNet compared with a U-Net of the same widths.

    python benchmarks/network.py cost                     # multiply-adds, CPU time, time of each module
    python benchmarks/network.py train --data DIR         # validation DSC at equal budget, with several seeds

``cost`` measures all variants in turn within each round, so that other load on the machine affects all of them, and sums the
shortest time of each module. ``train`` reads a datalist of phantoms (``python -m scripts.data phantom``), crops patches from
sagittal slices and trains every variant on the same patches in the same order. Results are appended to a CSV during training.
"""

from __future__ import annotations

import csv
import json
import sys
import time
from pathlib import Path

import fire
import nibabel as nib
import numpy as np
import torch
from monai.losses import DiceCELoss
from monai.networks.nets import BasicUNet
from torch import nn
from torch.utils.flop_counter import FlopCounterMode
from tqdm import tqdm

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "bundle"))

from scripts.networks import MSFFNet
from scripts.networks.outputs import FRACTURE, NUM_CLASSES

FEATURES = (16, 32, 64, 128, 256)
VARIANTS: dict[str, dict] = {
    "1/2, width 16": {"fusion_channels": 16},
    "1/2, width 24": {"fusion_channels": 24},
    "1/2, width 48": {"fusion_channels": 48},
    "1/4, width 48": {"fusion_stride": 4, "fusion_channels": 48, "encoder_strides": (2, 1, 1)},
    "1/4, width 64": {"fusion_stride": 4, "fusion_channels": 64, "encoder_strides": (2, 1, 1)},
    "1/8, width 64": {"fusion_stride": 8, "fusion_channels": 64, "encoder_strides": (1, 1, 1)},
}


def build(name: str, features: tuple[int, ...] = FEATURES) -> nn.Module:
    """U-Net, MSFFNet with its defaults, or one of the variants, by name."""
    if name == "U-Net":
        return BasicUNet(2, 1, NUM_CLASSES, features=(*features, features[0]), act="relu", norm="batch")
    return MSFFNet(2, 1, NUM_CLASSES, features=features, **VARIANTS.get(name, {}))


def multiply_adds(network: nn.Module, size: int = 256) -> float:
    """10^9 multiply-adds of one slice of ``size`` x ``size``, with attention by formula where PyTorch's counter omits it."""
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        network.eval()(torch.rand(1, 1, size, size))
    total = counter.get_total_flops()
    counted = any("attention" in str(k) for k in counter.get_flop_counts().get("Global", {}))
    if isinstance(network, MSFFNet) and not counted and not isinstance(network.rbrab, nn.Identity):
        attention = network.rbrab.attention
        stride = network.decoder_in_stride * attention.pool.kernel_size
        queries, keys = (size // stride) ** 2, attention.grid[0] ** 2
        total += 2 * queries * keys * (attention.query.out_channels + attention.value.out_channels)
    return total / 2e9


def _children(network: nn.Module) -> dict[str, nn.Module]:
    """Direct children, those of module lists one by one."""
    children: dict[str, nn.Module] = {}
    for name, child in network.named_children():
        children.update(
            {f"{name}.{k}": c for k, c in child.named_children()} if isinstance(child, nn.ModuleList) else {name: child}
        )
    return children


class Stopwatch:
    """Shortest seconds of every direct child of a network and of the code between them, over many forward passes.

    On a shared machine a process is suspended for tenths of a second at a time. A module runs for milliseconds, so that one of many
    rounds is undisturbed, which a whole forward pass of a large batch may never be. The cost is the sum of the shortest times.
    """

    def __init__(self, network: nn.Module) -> None:
        self.network = network
        self.best: dict[str, float] = {}
        self._last, self._between = 0.0, 0
        for name, child in _children(network).items():
            child.register_forward_pre_hook(lambda *_: self._mark(f"between {self._between}"))
            child.register_forward_hook(lambda *_, n=name: self._mark(n))

    def _mark(self, name: str) -> None:
        now = time.perf_counter()
        self.best[name] = min(self.best.get(name, float("inf")), now - self._last)
        self._between += name.startswith("between")
        self._last = time.perf_counter()

    def round(self, image: torch.Tensor) -> None:
        """Run and time one forward pass."""
        self._between, self._last = 0, time.perf_counter()
        self.network(image)
        self._mark(f"between {self._between}")

    @property
    def total(self) -> float:
        """Sum of the shortest times (s)."""
        return sum(self.best.values())


def cost(rounds: int = 30, size: int = 256, batch: int = 4, threads: int = 2) -> None:
    """Print multiply-adds and CPU time of a forward pass for every variant, with ratios to the U-Net."""
    torch.set_num_threads(threads)
    networks = {n: build(n).eval() for n in ("U-Net", "MSFFNet", *VARIANTS)}
    arithmetic = {n: multiply_adds(net, size) for n, net in networks.items()}
    stopwatches = {n: Stopwatch(net.to(memory_format=torch.channels_last)) for n, net in networks.items()}
    image = torch.rand(batch, 1, size, size).to(memory_format=torch.channels_last)
    shortest: dict[str, float] = dict.fromkeys(networks, float("inf"))
    with torch.inference_mode():
        for _ in tqdm(range(rounds), desc="rounds"):
            for name, stopwatch in stopwatches.items():
                start = time.perf_counter()
                stopwatch.round(image)
                shortest[name] = min(shortest[name], time.perf_counter() - start)
    print(f"\nForward pass of {batch} x 1 x {size} x {size}, channels last, {threads} threads, {rounds} rounds in turn.\n")
    print("| network | parameters (M) | multiply-adds (G) | ratio | ms (sum of modules) | ratio | ms (whole pass) |")
    print("| --- | --- | --- | --- | --- | --- | --- |")
    for name, network in networks.items():
        parameters = sum(p.numel() for p in network.parameters()) / 1e6
        total = stopwatches[name].total
        print(
            f"| {name} | {parameters:.2f} | {arithmetic[name]:.2f} | {arithmetic[name] / arithmetic['U-Net']:.2f} | "
            f"{1e3 * total:.0f} | {total / stopwatches['U-Net'].total:.2f} | {1e3 * shortest[name]:.0f} |"
        )
    for name in ("U-Net", "MSFFNet"):
        best = stopwatches[name].best
        print(f"\n| module of {name} | ms |\n| --- | --- |")
        for module, seconds in best.items():
            if not module.startswith("between"):
                print(f"| {module} | {1e3 * seconds:.1f} |")
        print(f"| between modules | {1e3 * sum(v for k, v in best.items() if k.startswith('between')):.1f} |")


def _scans(root: Path, sections: tuple[str, ...]) -> list[tuple[np.ndarray, np.ndarray, list[np.ndarray]]]:
    """Scaled CT, mask, and coordinates of fractures and of bone, for every scan of some sections."""
    scans = []
    datalist = json.loads((root / "datalist.json").read_text())
    for case in (c for section in sections for c in datalist[section]):
        image, label = (nib.as_closest_canonical(nib.load(root / case[k])) for k in ("image", "label"))
        volume, mask = np.asarray(image.dataobj, np.float32), np.asarray(label.dataobj) > 0
        volume = np.clip((volume + 200) / 1200, 0, 1)
        bone = np.argwhere(volume > 0.3)
        scans.append((volume, mask.astype(np.float32), [np.argwhere(mask) if mask.any() else bone, bone]))
    return scans


def _patches(
    scans: list[tuple[np.ndarray, np.ndarray, list[np.ndarray]]], per_scan: int, size: tuple[int, int], rng: np.random.Generator
) -> tuple[torch.Tensor, torch.Tensor]:
    """Crop patches from sagittal slices, half of them around a fracture where there is one, half around bone."""
    images, labels = [], []
    for volume, mask, coordinates in scans:
        for k in range(per_scan):
            candidates = coordinates[k % 2]
            x, *centre = candidates[rng.integers(len(candidates))]
            patch = []
            for position, edge, length in zip(centre, size, volume.shape[1:], strict=True):
                start = int(np.clip(position - rng.integers(edge // 4, 3 * edge // 4), 0, max(length - edge, 0)))
                patch.append(slice(start, min(start + edge, length)))
            padding = [(0, edge - (s.stop - s.start)) for edge, s in zip(size, patch, strict=True)]
            images.append(np.pad(volume[(x, *patch)], padding))
            labels.append(np.pad(mask[(x, *patch)], padding))
    return torch.from_numpy(np.stack(images))[:, None], torch.from_numpy(np.stack(labels))[:, None]


def _dice(network: nn.Module, images: torch.Tensor, labels: torch.Tensor) -> tuple[float, float]:
    """Mean per-slice DSC (both empty: 1, false positive: 0) and pooled DSC."""
    network.eval()
    scores, overlap, total = [], 0.0, 0.0
    with torch.inference_mode():
        for start in range(0, len(images), 16):
            logits = network(images[start : start + 16].to(memory_format=torch.channels_last))
            predictions = logits.argmax(1, keepdim=True) == FRACTURE
            references = labels[start : start + 16].bool()
            for a, b in zip(predictions, references, strict=True):
                intersection, size = float((a & b).sum()), float(a.sum() + b.sum())
                scores.append(2 * intersection / size if size else 1.0)
                overlap, total = overlap + intersection, total + size
    return float(np.mean(scores)), 2 * overlap / max(total, 1)


def train(
    data: str,
    networks: tuple[str, ...] = ("U-Net", "MSFFNet"),
    seeds: tuple[int, ...] = (0, 1, 2),
    steps: int = 800,
    batch: int = 16,
    learning_rate: float = 2e-3,
    features: tuple[int, ...] = FEATURES,
    val_per_scan: int = 32,
    size: tuple[int, int] = (64, 64),
    out: str = "runs/network_benchmark.csv",
    threads: int = 2,
) -> None:
    """Train every network on the same patches for the same number of steps and append the validation DSC to ``out``.

    Args:
        data: folder of a phantom data set; its validation and test scans are the validation set.
        networks: names of ``build``.
        seeds: seeds of initial weights and patches, one training each.
        steps: optimizer steps, with a learning rate that decays to 0 along a cosine.
        batch: patches per step.
        learning_rate: initial learning rate of Adam.
        features: widths of every network.
        val_per_scan: patches per validation scan.
        size: height and width of the patches.
        out: CSV with one row for each quarter of a training.
        threads: threads of PyTorch.
    """
    torch.set_num_threads(threads)
    root = Path(data)
    scans = _scans(root, ("training",))
    validation_scans = _scans(root, ("validation", "testing"))
    val_images, val_labels = _patches(validation_scans, val_per_scan, tuple(size), np.random.default_rng(1))  # type: ignore[arg-type]
    print(f"{len(scans)} training scans; {len(val_images)} patches of {size} from {len(validation_scans)} validation scans")
    loss_function = DiceCELoss(include_background=False, to_onehot_y=True, softmax=True, batch=True)
    path = Path(out)
    path.parent.mkdir(parents=True, exist_ok=True)
    columns = ["network", "features", "seed", "step", "steps", "batch", "rate", "mean_dice", "pooled_dice", "seconds"]
    if not path.exists():
        path.write_text(",".join(columns) + "\n")
    for seed in seeds:
        for name in networks:
            torch.manual_seed(seed)
            network = build(name, tuple(features)).to(memory_format=torch.channels_last)
            optimizer = torch.optim.Adam(network.parameters(), lr=learning_rate)
            schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
            rng = np.random.default_rng([seed, 5])
            start, batches = time.perf_counter(), []
            for step in tqdm(range(1, steps + 1), desc=f"{name}, seed {seed}", unit="step", mininterval=5):
                if not batches:
                    images, labels = _patches(scans, 8, tuple(size), rng)  # type: ignore[arg-type]
                    batches = list(torch.from_numpy(rng.permutation(len(images))).split(batch))
                    batches = batches[: len(images) // batch]
                indices = batches.pop()
                network.train()
                optimizer.zero_grad(set_to_none=True)
                x = images[indices].to(memory_format=torch.channels_last)
                loss_function(network(x), labels[indices]).backward()
                optimizer.step()
                schedule.step()
                if step in {round(steps * k / 4) for k in (1, 2, 3, 4)}:
                    mean, pooled = _dice(network, val_images, val_labels)
                    row = [name, "-".join(map(str, features)), seed, step, steps, batch, learning_rate]
                    row += [f"{mean:.4f}", f"{pooled:.4f}", f"{time.perf_counter() - start:.0f}"]
                    print(*row, sep=", ", flush=True)
                    with path.open("a", newline="") as file:
                        csv.writer(file).writerow(row)


if __name__ == "__main__":
    fire.Fire({"cost": cost, "train": train})
