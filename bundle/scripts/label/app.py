# SPDX-License-Identifier: Apache-2.0
"""App of ``serve``: MONAI Label's ``monaibundle`` app, with the reason of an error in its responses.

``serve`` copies this file into the app's folder as ``main.py``; MONAI Label loads it from there, so it does not import the bundle.
The bundle also works in the unchanged app, which responds with "Internal Server Error" to errors that have a line here.
"""

from __future__ import annotations

import importlib.util
import logging
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from monailabel.interfaces.app import MONAILabelApp
from monailabel.interfaces.exception import MONAILabelException
from starlette.exceptions import HTTPException

logger = logging.getLogger(__name__)
FILES = ("image", "_image_id", "images", "label")  # names of studies, which enter no config
NOT_FOUND, UNPROCESSABLE, FAILED, UNAVAILABLE = 404, 422, 500, 503


def refuse_expressions(value: Any, name: str = "request") -> None:
    """Refuse values that a config would resolve as code, references or macros: anyone who reaches the port can send them.

    Raises:
        HTTPException: for a string that begins with $, @ or %, at any depth.
    """
    if isinstance(value, dict):
        for key, item in value.items():
            refuse_expressions(key, name)
            if key not in FILES:
                refuse_expressions(item, str(key))
    elif isinstance(value, (list, tuple)):
        for item in value:
            refuse_expressions(item, name)
    elif isinstance(value, str) and value.lstrip()[:1] in ("$", "@", "%"):
        raise HTTPException(UNPROCESSABLE, f"{name}={value!r}: expressions of configs are not accepted; send a plain value")


def stock_app() -> ModuleType:
    """Sample app in the installation of MONAI Label."""
    paths = [Path(sys.prefix, *more, "monailabel", "sample-apps", "monaibundle", "main.py") for more in ((), ("local",))]
    file = next((p for p in paths if p.is_file()), paths[0])
    spec = importlib.util.spec_from_file_location("monaibundle_main", file)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


stock = stock_app()


class SpineFractureApp(stock.MyApp, MONAILabelApp):  # type: ignore[name-defined, misc]
    """The stock app; MONAI Label searches for a class with ``MONAILabelApp`` among its direct bases."""

    _infers: dict[str, Any]

    def _weights(self, model: str) -> Path:
        return Path(self.models[model]) / "models" / "model.pt"

    def _reload_models(self) -> None:
        """Register a model whose weights were written after the server started, such as by the first training."""
        invalid = [n for n, task in self._infers.items() if not task.is_valid()]
        if any(self._weights(n).is_file() for n in invalid if n in self.models):
            self._infers = self.init_infers()

    def info(self) -> dict[str, Any]:
        """Models, labels and studies of the server."""
        self._reload_models()
        return super().info()

    def _require_weights(self, request: dict) -> None:
        self._reload_models()
        task = self._infers.get(str(request.get("model")))
        if task is not None and not task.is_valid():
            raise HTTPException(
                UNAVAILABLE, f"{self._weights(request['model'])}: no such checkpoint; put weights there, or submit labels and train"
            )

    def infer(self, request: dict, datastore: Any = None) -> dict:
        """Segment a study; the result of one of a batch that is refused is the reason, and the batch continues.

        Raises:
            HTTPException: with the reason in one line.
        """
        try:
            return self._infer(request, datastore)
        except HTTPException as error:
            if "_image_id" not in request:  # of a batch
                raise
            logger.warning("%s: not segmented: %s", request.get("image"), error.detail)
            return {"error": str(error.detail)}

    def _infer(self, request: dict, datastore: Any) -> dict:
        refuse_expressions(request)
        self._require_weights(request)
        try:
            return super().infer(request, datastore)
        except HTTPException:
            raise
        except MONAILabelException as error:
            raise HTTPException(NOT_FOUND, str(error.msg)) from error
        except (Exception, SystemExit) as error:
            logger.exception("inference failed")
            lines = str(error).strip().splitlines() or [type(error).__name__]
            raise HTTPException(FAILED, f"{request.get('image')}: {lines[0]}") from error

    def train(self, request: dict) -> Any:
        """Train in one process: the config changes of MONAI Label do not fit ``configs/multi_gpu_train.yaml``."""
        refuse_expressions(request)
        if request.get("multi_gpu", True) and torch.cuda.device_count() > 1:
            logger.warning("training uses one GPU; for several use the command line, see docs/clusters.md")
        return super().train({**request, "multi_gpu": False})

    def scoring(self, request: dict, datastore: Any = None) -> dict:
        """Score studies sequentially: the task of a bundle parses its config for each of them and is not thread-safe."""
        refuse_expressions(request)
        return super().scoring({**request, "max_workers": 1}, datastore)

    def batch_infer(self, request: dict, datastore: Any = None) -> dict:
        """Segment many studies sequentially; without a GPU the stock app divides by the number of GPUs.

        The result of a study that is refused is the reason, and the others continue.

        Raises:
            HTTPException: without weights, or when every study was refused.
        """
        refuse_expressions(request)
        self._require_weights(request)
        gpus = torch.cuda.device_count() > 0 and bool(request.get("multi_gpu", True))
        results = super().batch_infer({**request, "multi_gpu": gpus, "max_workers": 1}, datastore)
        refused = [r["error"] for r in results.values() if isinstance(r, dict) and "error" in r]
        if refused and len(refused) == len(results):
            raise HTTPException(FAILED, f"none of {len(refused)} studies was segmented: {refused[0]}")
        return results

    def next_sample(self, request: dict) -> dict:
        """Select a study without a label.

        Raises:
            HTTPException: when the folder has no study.
        """
        sample = super().next_sample(request)
        if not sample and not self.datastore().list_images():
            raise HTTPException(NOT_FOUND, f"{self.studies}: contains no study; put CT scans (.nii.gz, .nii, .nrrd, .mha) there")
        return sample
