# SPDX-License-Identifier: Apache-2.0
"""Data loader of the training: crops gathered on the device where the data fit there, else cropped by worker processes."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from monai.data import DataLoader
from tqdm import tqdm

from ..sampling import SeededDataset
from .plan import CropPlan, unsupported
from .volumes import BITS, ResidentVolumes, required_bytes

SHARE = 0.4  # of the free memory of the device; the rest is for the network
MODES = ("auto", True, False)
logger = logging.getLogger(__name__)


def training_loader(dataset: SeededDataset, device: Any, resident: bool | str = "auto", **kwargs: Any) -> DataLoader:
    """Data loader of MONAI, or one that gathers its batches from volumes resident on the device.

    Both draw the same crops: a training does not depend on the choice, apart from the rounding of the stored images.

    Args:
        dataset: seeded data set of the training; that inside has the method ``deterministic``, see ``data.cache.volume_cache``.
        device: device of the training.
        resident: "auto": on a GPU, where transforms and free memory allow it; True: always; False: never.
        kwargs: arguments of ``DataLoader``.

    Raises:
        ValueError: for another ``resident``, or True with transforms that do not allow it.
    """
    resident = {"true": True, "false": False}.get(str(resident).lower(), resident)  # the command line passes text
    if resident not in MODES:
        raise ValueError(f"training_loader: resident={resident!r}; must be auto, true or false.")
    device, source = torch.device(device), dataset.dataset
    if resident is False or (resident == "auto" and free_bytes(device) is None) or not len(source):
        return DataLoader(dataset=dataset, **kwargs)
    reason = unsupported(source.transform)
    if reason is None:
        volumes, reason = load_resident(source, device, forced=resident is True)
    if reason is None:
        plan, stored = volumes
        return ResidentLoader(SeededDataset(plan, dataset.seed), stored, **kwargs)
    if resident is True:
        raise ValueError(f"resident=true: {reason}.")
    logger.info(f"training data stay in the data loader: {reason}")
    return DataLoader(dataset=dataset, **kwargs)


def free_bytes(device: torch.device) -> int | None:
    """Free memory of a device that may hold training data; None without a memory of its own."""
    return int(SHARE * torch.cuda.mem_get_info(device)[0]) if device.type == "cuda" else None


def load_resident(source: Any, device: torch.device, forced: bool) -> tuple[Any, str | None]:
    """Plan and volumes of a data set on the device, or the reason why they do not fit."""
    shapes, indices, low, high = [], [], np.inf, -np.inf
    for number in range(len(source)):
        item = source.deterministic(number)
        shapes.append(tuple(int(n) for n in item["label"].shape[1:]))
        indices.append({k: v for k, v in item.items() if str(k).endswith("_indices")})
        image = np.asarray(item["image"])
        low, high = min(low, float(image.min())), max(high, float(image.max()))
    voxels = sum(int(np.prod(shape)) for shape in shapes)
    free = free_bytes(device)
    bits = next((b for b in BITS if free is None or required_bytes(voxels, b) <= free), BITS[-1] if forced else None)
    if bits is None:
        needed, size = required_bytes(voxels, BITS[-1]) / 2**30, (free or 0) / 2**30
        return None, f"{needed:.1f} GiB of volumes do not fit into {size:.1f} GiB of {device}"
    volumes = ResidentVolumes(shapes, (low, max(high, low + 1e-3)), device, bits)
    for number in tqdm(range(len(source)), desc=f"volumes to {device}", unit="case"):
        item = source.deterministic(number)
        volumes.store(number, np.asarray(item["image"])[0], np.asarray(item["label"])[0])
    logger.info(f"{len(shapes)} volumes resident on {device}: {required_bytes(voxels, bits) / 2**30:.2f} GiB, {bits} bits")
    return (CropPlan(source.data, source.transform, shapes, indices), volumes), None


class ResidentLoader(DataLoader):
    """Data loader whose workers draw positions, and whose batches are gathered on the device.

    Args:
        dataset: seeded ``CropPlan``.
        volumes: volumes of its cases.
        kwargs: arguments of ``DataLoader``.
    """

    def __init__(self, dataset: SeededDataset, volumes: ResidentVolumes, **kwargs: Any) -> None:
        super().__init__(dataset=dataset, **kwargs)
        # DataLoader accepts new attributes only under names that are not its own.
        self.volumes, self.plan = volumes, dataset.dataset

    def __iter__(self) -> Iterator[dict[str, Any]]:  # type: ignore[override]
        for batch in super().__iter__():
            image, label = self.volumes.gather(batch.pop("case_number"), batch.pop("corner"), self.plan.size, self.plan.offsets)
            yield {"image": image, "label": label, **batch}
