# SPDX-License-Identifier: Apache-2.0
"""The app that ``serve`` starts: MONAI Label's own ``monaibundle`` app, with answers that say why.

``serve`` copies this file into the app's folder as ``main.py``; MONAI Label loads it from there, so it imports nothing of ours.
The bundle works in the unchanged app, too; that one answers "Internal Server Error" to what is refused here.
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
NOT_FOUND, FAILED, UNAVAILABLE = 404, 500, 503


def stock_app() -> ModuleType:
    """The sample app that comes with MONAI Label."""
    places = [
        Path(sys.prefix, *more, "monailabel", "sample-apps", "monaibundle", "main.py") for more in ((), ("local",))
    ]
    file = next((p for p in places if p.is_file()), places[0])
    spec = importlib.util.spec_from_file_location("monaibundle_main", file)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


stock = stock_app()


class SpineFractureApp(stock.MyApp, MONAILabelApp):  # type: ignore[name-defined, misc]
    """The stock app; MONAI Label looks for a class that names ``MONAILabelApp`` among its bases."""

    _infers: dict[str, Any]

    def _weights(self, model: str) -> Path:
        return Path(self.models[model]) / "models" / "model.pt"

    def _wake(self) -> None:
        """Offer a model whose weights came after the start, such as from a training with the first labels."""
        asleep = [n for n, task in self._infers.items() if not task.is_valid()]
        if any(self._weights(n).is_file() for n in asleep if n in self.models):
            self._infers = self.init_infers()

    def info(self) -> dict[str, Any]:
        """Facts about the server."""
        self._wake()
        return super().info()

    def infer(self, request: dict, datastore: Any = None) -> dict:
        """Segment a study.

        Raises:
            HTTPException: with the reason in one line.
        """
        self._wake()
        task = self._infers.get(str(request.get("model")))
        if task is not None and not task.is_valid():
            raise HTTPException(
                UNAVAILABLE,
                f"{self._weights(request['model'])}: no such checkpoint; put weights there, or submit labels and train",
            )
        try:
            return super().infer(request, datastore)
        except HTTPException:
            raise
        except MONAILabelException as error:
            raise HTTPException(NOT_FOUND, str(error.msg)) from error
        except (Exception, SystemExit) as error:
            logger.exception("inference failed")
            line = (str(error).strip().splitlines() or [""])[0]
            raise HTTPException(FAILED, f"{request.get('image')}: {line or type(error).__name__}") from error

    def train(self, request: dict) -> Any:
        """Train in one process: what MONAI Label changes in the config does not fit ``configs/multi_gpu_train.yaml``."""
        if request.get("multi_gpu", True) and torch.cuda.device_count() > 1:
            logger.warning("training takes one GPU; several are for the command line, see docs/scaling.md")
        return super().train({**request, "multi_gpu": False})

    def scoring(self, request: dict, datastore: Any = None) -> dict:
        """Score studies one after another: the task of a bundle parses its config anew for each and is not made for threads."""
        return super().scoring({**request, "max_workers": 1}, datastore)

    def batch_infer(self, request: dict, datastore: Any = None) -> dict:
        """Segment many studies one after another; without a GPU the stock app divides them among none."""
        gpus = torch.cuda.device_count() > 0
        return super().batch_infer({"multi_gpu": gpus, **request, "max_workers": 1}, datastore)

    def next_sample(self, request: dict) -> dict:
        """Choose a study without label.

        Raises:
            HTTPException: when the folder holds no study at all.
        """
        sample = super().next_sample(request)
        if not sample and not self.datastore().list_images():
            raise HTTPException(
                NOT_FOUND, f"{self.studies}: holds no study; put CT scans (.nii.gz, .nii, .nrrd, .mha) there"
            )
        return sample
