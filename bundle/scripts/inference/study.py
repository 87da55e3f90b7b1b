# SPDX-License-Identifier: Apache-2.0
"""A study of MONAI Label, read and segmented by the same code as ``inference``, so that both give the same mask.

MONAI Label takes three things from ``inference.yaml``: transforms before the network, an inferer, transforms after it. Here the
first reads and checks the scan and leaves it on its own grid, the second does all the work, the third lists what was found.
"""

from __future__ import annotations

import logging
from collections.abc import Hashable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from monai.config import KeysCollection
from monai.data import MetaTensor
from monai.inferers import Inferer
from monai.transforms import MapTransform
from numpy.typing import NDArray
from scipy.ndimage import find_objects, label
from torch import nn

from ..core.errors import InputError, refusal
from ..io.ct_volume import Scan
from ..io.scan_header import ScanHeader, read_header
from ..postprocessing.findings import PostProcessing
from ..postprocessing.fragments import finding_slices
from ..training.weights import load_weights
from .pipeline import Clock, Pipeline
from .predict import PatchConfig
from .runtimes import TorchRunner

logger = logging.getLogger(__name__)
STEPS = 10  # lines of progress in the log of a phase


class ProgressLog:
    """Progress of a study as lines of the server's log, at most ``STEPS`` a phase."""

    def __init__(self) -> None:
        self.phase, self.shown = "", -1

    def __call__(self, phase: str, done: int, total: int) -> None:
        """Take what is done of a phase."""
        if phase != self.phase:
            self.phase, self.shown = phase, -1
        tenth = STEPS * done // max(total, 1)
        if tenth > self.shown:
            self.shown = tenth
            logger.info("%s: %d of %d", phase, done, total)


class ReadStudyd(MapTransform):
    """Read a scan as ``inference`` reads it, and refuse what cannot be segmented before any work is done.

    MONAI Label takes a network whose weights are missing or of another network as it is, which is at random; so they are checked.

    Args:
        keys: item that holds the path of the scan; it becomes a ``MetaTensor`` (1, I, J, K), int16, HU, on the scan's own grid.
        models: folder of the weights; the item ``model_filename`` chooses one, else ``model.pt``.
        network: network of the config, which the weights must fit.
        expect_hu: whether scans whose values are no HU are refused.
    """

    def __init__(self, keys: KeysCollection, models: str, network: nn.Module, expect_hu: bool = True) -> None:
        super().__init__(keys)
        self.models, self.network, self.expect_hu = Path(models), network, expect_hu

    def _check_weights(self, wanted: object) -> None:
        name = wanted[0] if isinstance(wanted, (list, tuple)) and wanted else wanted
        chosen = self.models / str(name or "model.pt")
        file = chosen if chosen.is_file() else self.models / "model.pt"
        if file.is_file() or not (self.models / "model.ts").is_file():  # TorchScript brings its network with it
            load_weights(self.network, str(file), exact=True)

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Return the items with the scan in place of its path.

        Raises:
            Exception: as made by ``refusal``, with one line.
        """
        result = dict(data)
        try:
            self._check_weights(data.get("model_filename"))
            for key in self.key_iterator(result):
                result[key] = self._read(result[key])
        except (InputError, OSError, ValueError) as error:
            raise refusal(error) from None
        except MemoryError:
            raise refusal(f"{data.get('image')}: there is not enough memory to read it; crop the scan") from None
        return result

    def _read(self, path: object) -> MetaTensor:
        if not isinstance(path, str) or not path:
            raise ValueError("there is no such study in the server's folder; choose one that is there, or send a scan")
        header = read_header(path, require_volume=self.expect_hu)
        for note in header.notes:
            logger.warning("note: %s", note)
        voxels = Scan(header, expect_hu=self.expect_hu).slab(0, header.shape[2])
        meta = {
            "filename_or_obj": header.path,
            "spatial_shape": np.array(header.shape),
            "original_affine": header.affine,
        }
        return MetaTensor(torch.from_numpy(voxels.transpose(2, 1, 0)[None]), affine=header.affine, meta=meta)


class TensorScan:
    """A tensor (I, J, K) that gives slabs as ``Scan`` does."""

    def __init__(self, header: ScanHeader, voxels: torch.Tensor) -> None:
        self.header, self._voxels = header, voxels.permute(2, 1, 0)

    def slab(self, start: int, stop: int) -> NDArray[np.int16]:
        """Slices ``start`` to ``stop`` (K, J, I)."""
        return self._voxels[start:stop].cpu().numpy().astype(np.int16, copy=False)


def given_runner(network: nn.Module, device: torch.device, amp: bool) -> TorchRunner:
    """A runner of a network that has its weights; layers of dropout that are switched on stay on.

    MONAI Label scores studies by asking a network in training mode repeatedly; batch normalisation must not take part in that.
    """
    active = [m for m in network.modules() if isinstance(m, nn.modules.dropout._DropoutNd) and m.training]
    runner = TorchRunner(network, device, amp=amp and device.type == "cuda")
    for module in active:
        module.train()
    return runner


class ScanInferer(Inferer):
    """Segment a whole scan: search, two looks, post-processing and the way back to its grid, as ``inference`` does.

    Args:
        window: arguments of ``PatchConfig``.
        planes: planes whose slices a 2D network sees.
        search: arguments ``search``, ``coarse_mm`` and ``spacing`` of ``Pipeline``.
        post: arguments of ``PostProcessing``; they may come as text.
        amp: half precision on a GPU.
    """

    def __init__(
        self,
        window: Mapping[str, Any],
        planes: Sequence[str] = ("sagittal",),
        search: Mapping[str, Any] | None = None,
        post: Mapping[str, Any] | None = None,
        amp: bool = False,
    ) -> None:
        super().__init__()
        self.window, self.planes, self.amp = dict(window), list(planes), amp
        self.search, self.post = dict(search or {}), dict(post or {})

    def _post(self) -> PostProcessing:
        values = dict(self.post)
        for name in ("threshold", "min_volume_ml"):
            if name in values:
                try:
                    values[name] = float(values[name])
                except (TypeError, ValueError):
                    raise ValueError(f"{name}={values[name]!r}: give a number") from None
        return PostProcessing(**values)

    def __call__(self, inputs: torch.Tensor, network: nn.Module, *args: Any, **kwargs: Any) -> torch.Tensor:
        """Return the mask (1, 1, I, J, K), uint8, of a scan (1, 1, I, J, K) in HU with its affine.

        Raises:
            Exception: as made by ``refusal``, for a value out of range.
        """
        if not isinstance(inputs, MetaTensor) or inputs.ndim != 5 or inputs.shape[:2] != (1, 1):
            raise refusal(f"ScanInferer: got {tuple(inputs.shape)}; give one scan (1, 1, I, J, K) with its affine")
        i, j, k = (int(n) for n in inputs.shape[2:])
        affine = inputs.affine.cpu().numpy().astype(np.float64).reshape(4, 4)
        name = str(inputs.meta.get("filename_or_obj", "scan"))
        scan: Any = TensorScan(ScanHeader(name, (i, j, k), affine, np.dtype(np.int16)), inputs.as_tensor()[0, 0])
        arguments: dict[str, Any] = {n: tuple(v) if n in ("size", "hu") else v for n, v in self.window.items()}
        arguments["flips"] = tuple(tuple(axes) for axes in arguments.get("flips", ()))
        try:
            post, window = self._post(), PatchConfig(**arguments)
            planes = self.planes if len(window.size) == 2 else ["volume"]
            runner = given_runner(network, inputs.device, self.amp)
            pipeline = Pipeline({plane: [runner] for plane in planes}, window, **self.search)
        except (TypeError, ValueError, InputError) as error:
            raise refusal(error) from None
        clock = Clock()
        grid = pipeline.plan_header(scan.header)
        found = pipeline(scan, grid, clock, ProgressLog())
        numbers = post(found.volume, grid.spacing)
        mask = torch.zeros(k, j, i, dtype=torch.uint8)
        for at, box, _, _, plane in finding_slices(found, numbers, grid, post, float(np.prod(scan.header.spacing))):
            mask[at][box] = torch.from_numpy(plane.astype(np.uint8))
        spent = ", ".join(f"{phase} {seconds:.1f} s" for phase, seconds in clock.seconds.items())
        logger.info("%s: %d and %d windows; %s", name, *found.windows, spent)
        return MetaTensor(mask.permute(2, 1, 0)[None, None], affine=inputs.affine)


class ListFindingsd(MapTransform):
    """Put what was found into the answer: the item ``result`` becomes the parameters that MONAI Label sends with the mask.

    Args:
        keys: mask (1, I, J, K) on the scan's grid.
        image_key: scan that knows its affine.
    """

    def __init__(self, keys: KeysCollection, image_key: str = "image") -> None:
        super().__init__(keys)
        self.image_key = image_key

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Return the items with ``result``: findings, the largest first, with millilitres and centre (R, A, S, mm)."""
        result = dict(data)
        affine = np.asarray(torch.as_tensor(result[self.image_key].affine).cpu(), np.float64)
        for key in self.key_iterator(result):
            findings = list_findings(torch.as_tensor(result[key])[0].cpu().numpy(), affine)
            shown = "; ".join(f"{f['volume_ml']:.1f} ml at {f['centre_ras_mm']}" for f in findings)
            logger.info("%d finding(s)%s", len(findings), f": {shown}" if shown else "")
            result["result"] = {**dict(result.get("result") or {}), "findings": findings}
        return result


def list_findings(mask: NDArray, affine: NDArray[np.float64]) -> list[dict[str, Any]]:
    """Connected findings of a mask (I, J, K), the largest first, with their volume and centre."""
    whole = find_objects((mask > 0).astype(np.uint8))
    if not whole:
        return []
    marked, _ = label(mask[whole[0]] > 0)
    voxel_ml = abs(float(np.linalg.det(affine[:3, :3]))) / 1000
    findings = []
    for number, box in enumerate(find_objects(marked), 1):
        places = np.argwhere(marked[box] == number) + [s.start + w.start for s, w in zip(box, whole[0], strict=True)]
        centre = affine[:3, :3] @ places.mean(axis=0) + affine[:3, 3]
        findings.append(
            {"volume_ml": round(len(places) * voxel_ml, 2), "centre_ras_mm": [round(float(c), 1) for c in centre]}
        )
    return sorted(findings, key=lambda f: -f["volume_ml"])
