# SPDX-License-Identifier: Apache-2.0
"""Components of MONAI Label, which read and segment a study as ``inference`` does and so return the same mask.

MONAI Label reads three things from ``inference.yaml``: transforms before the network, an inferer, transforms after it. Here the
first reads and checks the scan on its own grid, the second is the whole pipeline, the third lists the findings.
"""

from __future__ import annotations

import logging
from collections.abc import Hashable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from monai.config import KeysCollection
from monai.data import MetaTensor
from monai.inferers import Inferer
from monai.transforms import MapTransform
from numpy.typing import NDArray
from torch import nn

from ..core.errors import InputError, refusal
from ..core.geometry import spacing_of
from ..io.ct_volume import Scan
from ..io.geometry_rules import GeometryRules
from ..io.scan_header import ScanHeader, read_header
from ..io.working_grid import WorkingGrid
from ..postprocessing.findings import PostProcessing, connected_components
from ..postprocessing.fragments import finding_slices
from ..postprocessing.probability_map import Probabilities
from ..training.weights import load_weights
from .pipeline import Pipeline
from .predict import PatchConfig
from .progress import PhaseTimer, ProgressLog
from .runtimes import Runner, TorchRunner, resolve_precision, without_untrained
from .vertebrae import find_scan_vertebrae

logger = logging.getLogger(__name__)
FLAGS = {"true": True, "1": True, "false": False, "0": False}  # MONAI Label sends options as text, too
NO_ORIENTATION = ("", "none", "null")


def _flag(name: str, value: object) -> bool:
    """Value of an option that may be text.

    Raises:
        ValueError: for another text.
    """
    text = str(value).strip().lower()
    if text not in FLAGS:
        raise ValueError(f"{name}={value!r}: must be true or false")
    return FLAGS[text]


class ReadStudyd(MapTransform):
    """Reader of a scan with the checks of ``inference``, before any other work.

    MONAI Label accepts a network whose weights are missing or belong to another network, and predicts at random; so they are
    checked.

    Args:
        keys: item with the path of the scan; it becomes a ``MetaTensor`` (1, I, J, K), int16, HU, on the scan's own grid.
        models: folder of the weights; the item ``model_filename`` chooses one, else ``model.pt``.
        network: network of the config, which the weights must fit.
        expect_hu: reject scans whose values are not HU; may be text.
        assume_orientation: directions of the voxel axes, such as RAS, of files that declare none; None or "none" refuses these.
    """

    def __init__(
        self,
        keys: KeysCollection,
        models: str,
        network: nn.Module,
        expect_hu: bool | str = True,
        assume_orientation: str | None = None,
    ) -> None:
        super().__init__(keys)
        self.models, self.network = Path(models), network
        self.expect_hu, self.assume_orientation = expect_hu, assume_orientation

    def _check_weights(self, requested: object) -> None:
        name = requested[0] if isinstance(requested, (list, tuple)) and requested else requested
        chosen = self.models / str(name or "model.pt")
        file = chosen if chosen.is_file() else self.models / "model.pt"
        if file.is_file() or not (self.models / "model.ts").is_file():  # TorchScript contains its network
            load_weights(self.network, str(file), exact=True)

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Replace the path by the scan.

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
            raise refusal(f"{data.get('image')}: not enough memory to read it; crop the scan") from None
        return result

    def _read(self, path: object) -> MetaTensor:
        if not isinstance(path, str) or not path:
            raise ValueError("no such study in the server's folder; choose one of its studies, or upload a scan")
        code, expect_hu = self.assume_orientation, _flag("check_hu", self.expect_hu)
        rules = GeometryRules(None if code is None or str(code).strip().lower() in NO_ORIENTATION else str(code).strip())
        header = read_header(path, require_volume=expect_hu, rules=rules)
        scan = Scan(header, expect_hu=expect_hu)
        for note in (*header.notes, *scan.warnings):
            logger.warning("note: %s", note)
        voxels = scan.slab(0, header.shape[2])
        meta = {"filename_or_obj": header.path, "spatial_shape": np.array(header.shape), "original_affine": header.affine}
        return MetaTensor(torch.from_numpy(voxels.transpose(2, 1, 0)[None]), affine=header.affine, meta=meta)


class TensorScan:
    """Tensor (I, J, K) with the interface of ``Scan``."""

    def __init__(self, header: ScanHeader, voxels: torch.Tensor) -> None:
        self.header, self._voxels = header, voxels.permute(2, 1, 0)

    @property
    def in_memory(self) -> NDArray[np.int16]:
        """HU (K, J, I)."""
        return self._voxels.cpu().numpy()

    def slab(self, start: int, stop: int) -> NDArray[np.int16]:
        """Slices ``start`` to ``stop`` (K, J, I)."""
        return self._voxels[start:stop].cpu().numpy().astype(np.int16, copy=False)


def dropout_runner(network: nn.Module, device: torch.device, amp: bool, precision: str = "auto") -> TorchRunner:
    """Runner of a network with weights, in evaluation mode except for dropout layers that are in training mode.

    MONAI Label scores studies by Monte Carlo dropout, with the network in training mode; batch normalisation must not take part.
    """
    active = [m for m in network.modules() if isinstance(m, nn.modules.dropout._DropoutNd) and m.training]
    half = resolve_precision(precision, device) == "bfloat16" if device.type == "cpu" else amp and device.type == "cuda"
    runner = TorchRunner(network, device, amp=half)
    for module in active:
        module.train()
    return runner


class ScanInferer(Inferer):
    """Segmentation of a whole scan on its own grid, as by ``inference``: search, both passes, post-processing, resampling.

    Args:
        window: arguments of ``PatchConfig``.
        planes: planes of the slices of a 2D network.
        search: arguments ``spacing``, ``search``, ``coarse_mm`` and ``cortex_mm`` of ``Pipeline``.
        post: arguments of ``PostProcessing``; numbers may be text.
        amp: half precision on a GPU.
        expect_hu: False searches everywhere instead of along the spine and keeps the masks of the network, as the HU of bone are
            not known then; may be text.
        precision: precision on a CPU, see ``load_runner``.
    """

    def __init__(
        self,
        window: Mapping[str, Any],
        planes: Sequence[str] = ("sagittal",),
        search: Mapping[str, Any] | None = None,
        post: Mapping[str, Any] | None = None,
        amp: bool = False,
        expect_hu: bool | str = True,
        precision: str = "auto",
    ) -> None:
        super().__init__()
        self.window, self.planes, self.amp, self.precision = dict(window), list(planes), amp, precision
        self.search, self.post, self.expect_hu = dict(search or {}), dict(post or {}), expect_hu

    def _pipeline(self, network: nn.Module, device: torch.device) -> Pipeline:
        try:
            patch, post = PatchConfig.from_config(self.window), PostProcessing.from_config(self.post)
            planes = self.planes if len(patch.size) == 2 else ["volume"]
            runner: Runner = dropout_runner(network, device, self.amp, self.precision)
            runner = without_untrained(runner, runner(torch.rand(1, patch.num_context_slices, *patch.size)))
            search = self.search if _flag("check_hu", self.expect_hu) else {**self.search, "search": "all", "cortex_mm": 0.0}
            return Pipeline({plane: [runner] for plane in planes}, patch, post, **search)
        except (TypeError, ValueError, InputError) as error:
            raise refusal(error) from None

    def __call__(self, inputs: torch.Tensor, network: nn.Module, *args: Any, **kwargs: Any) -> torch.Tensor:
        """Mask (1, 1, I, J, K), uint8, of a scan (1, 1, I, J, K) in HU with its affine.

        Raises:
            Exception: as made by ``refusal``, for a value out of range.
        """
        if not isinstance(inputs, MetaTensor) or inputs.ndim != 5 or inputs.shape[:2] != (1, 1):
            raise refusal(f"ScanInferer: got {tuple(inputs.shape)}; must be one scan (1, 1, I, J, K) with its affine")
        i, j, k = (int(n) for n in inputs.shape[2:])
        affine = inputs.affine.cpu().numpy().astype(np.float64).reshape(4, 4)
        name = str(inputs.meta.get("filename_or_obj", "scan"))
        scan: Any = TensorScan(ScanHeader(name, (i, j, k), affine, np.dtype(np.int16)), inputs.as_tensor()[0, 0])
        pipeline, timer = self._pipeline(network, inputs.device), PhaseTimer()
        grid = pipeline.working_grid(scan.header)
        predicted = pipeline(scan, grid, timer, ProgressLog())
        mask = torch.zeros(k, j, i, dtype=torch.uint8)
        for index, box, plane in self._mask_slices(pipeline, predicted, grid, scan):
            mask[index][box] = torch.from_numpy(plane.astype(np.uint8))
        phases = ", ".join(f"{phase} {seconds:.1f} s" for phase, seconds in timer.seconds.items())
        logger.info("%s: %d coarse and %d fine windows; %s", name, *predicted.num_windows, phases)
        return MetaTensor(mask.permute(2, 1, 0)[None, None], affine=inputs.affine)

    @staticmethod
    def _mask_slices(
        pipeline: Pipeline, predicted: Probabilities, grid: WorkingGrid, scan: Any
    ) -> Iterator[tuple[int, tuple[slice, slice], NDArray[np.bool_]]]:
        """Slices of the mask: fractured vertebrae where the decision is one per vertebra, else findings."""
        if pipeline.by_vertebra:
            found = find_scan_vertebrae(scan, grid, predicted, pipeline.post, cortex_mm=pipeline.cortex_mm)
            names = ", ".join(f"{r.name} {r.fracture_probability:.2f}" for r in found.records if r.fractured)
            logger.info("%d vertebrae; fractured: %s", len(found.records), names or "none")
            yield from ((k, box, found.fractured[numbers]) for k, box, numbers in found.slices(grid))
            return
        numbers = pipeline.post(predicted.volume, grid.spacing)
        voxel_mm3 = float(np.prod(scan.header.spacing))
        for k, box, _, _, plane in finding_slices(predicted, numbers, grid, pipeline.post, voxel_mm3):
            yield k, box, plane


class ListFindingsd(MapTransform):
    """List of findings as the item ``result``, the parameters that MONAI Label sends with the mask.

    Args:
        keys: mask (1, I, J, K) on the scan's grid.
        image_key: scan with its affine.
    """

    def __init__(self, keys: KeysCollection, image_key: str = "image") -> None:
        super().__init__(keys)
        self.image_key = image_key

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Add ``result``: findings, the largest first, with volume (ml) and centre (R, A, S, mm)."""
        result = dict(data)
        affine = np.asarray(torch.as_tensor(result[self.image_key].affine).cpu(), np.float64)
        for key in self.key_iterator(result):
            findings = list_findings(torch.as_tensor(result[key])[0].cpu().numpy(), affine)
            shown = "; ".join(f"{f['volume_ml']:.1f} ml at {f['centre_ras_mm']}" for f in findings)
            logger.info("%d finding(s)%s", len(findings), f": {shown}" if shown else "")
            result["result"] = {**dict(result.get("result") or {}), "findings": findings}
        return result


def list_findings(mask: NDArray, affine: NDArray[np.float64]) -> list[dict[str, Any]]:
    """Findings of a mask (I, J, K), the largest first, with their volume (ml) and centre (mm)."""
    voxel_ml = abs(float(np.linalg.det(affine[:3, :3]))) / 1000
    findings = []
    for component in connected_components(mask > 0, spacing_of(affine)):
        indices = np.argwhere(component.mask) + [s.start for s in component.box]
        centre = affine[:3, :3] @ indices.mean(axis=0) + affine[:3, 3]
        findings.append({"volume_ml": round(component.voxels * voxel_ml, 2), "centre_ras_mm": [round(float(c), 1) for c in centre]})
    return findings
