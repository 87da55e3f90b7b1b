# SPDX-License-Identifier: Apache-2.0
"""Initial weights as the first candidate for the best checkpoint, and copies of them."""

from __future__ import annotations

import logging
import math
import shutil
from pathlib import Path

import torch
from ignite.engine import Engine, Events
from torch import nn

from ..core.files import atomic_write
from ..networks.weights_description import with_description
from .describe_run import running_description
from .distributed.processes import is_main

logger = logging.getLogger(__name__)
FOLDER = "kept"


class InitialCheckpointGuard:
    """Handler of a trainer that validates the initial weights, so that they are the first candidate for the best.

    Attach it before the ``ValidationHandler``. The evaluator's ``CheckpointSaver`` then writes the initial weights first and
    afterwards only better ones. Copies are in the folder ``kept``, where no server offers them as models: ``original.pt`` (the file
    before the first such training, written once), ``previous.pt`` (the file before this training) and ``last.pt`` (the last weights
    of this training).

    Args:
        ckpt_dir: folder of the weights.
        network: network that is trained.
        evaluator: engine that validates.
        filename: file of the best weights.
    """

    def __init__(self, ckpt_dir: str, network: nn.Module, evaluator: Engine, filename: str = "model.pt") -> None:
        self.file, self.network, self.evaluator = Path(ckpt_dir) / filename, network, evaluator
        self.folder = self.file.parent / FOLDER
        self.description = running_description()
        self.initial_score, self.validated_epoch = math.nan, -1
        self.trainer: Engine | None = None

    def attach(self, engine: Engine) -> None:
        """Register at a trainer."""
        self.trainer = engine
        engine.add_event_handler(Events.STARTED, self._begin)
        engine.add_event_handler(Events.COMPLETED, self._end)
        self.evaluator.add_event_handler(Events.COMPLETED, self._validated)

    def _validated(self, evaluator: Engine) -> None:
        assert self.trainer is not None
        self.validated_epoch = self.trainer.state.epoch

    def _begin(self, engine: Engine) -> None:
        if engine.state.iteration > 0:  # resumed, perhaps within the first epoch: they were scored before
            return
        if self.file.is_file() and is_main():
            for name in ("original.pt", "previous.pt"):
                if name == "previous.pt" or not (self.folder / name).is_file():
                    with atomic_write(self.folder / name) as temporary:
                        shutil.copyfile(self.file, temporary)
        self.evaluator.run(1)  # type: ignore[arg-type]  # MONAI's evaluator takes the number of the epoch
        self.initial_score = self._metric()
        logger.info("initial weights: %s %.4f", self._name(), self.initial_score)

    def _end(self, engine: Engine) -> None:
        # Training may end between two validations.
        if self.validated_epoch != engine.state.epoch:
            self.evaluator.run(engine.state.epoch)  # type: ignore[arg-type]
        if is_main():
            with atomic_write(self.folder / "last.pt") as temporary:
                torch.save(with_description(self.network.state_dict(), self.description), temporary)
        best, name = float(self.evaluator.state.best_metric), self._name()
        if math.isnan(self.initial_score):
            logger.info("%s %.4f: %s contains the best weights", name, best, self.file)
        elif best > self.initial_score:
            logger.info("%s %.4f before, %.4f now: %s contains the better weights", name, self.initial_score, best, self.file)
        else:
            logger.warning(
                "no epoch was better than the initial weights (%s %.4f): %s is unchanged; "
                "the last weights of this training are in %s", name, self.initial_score, self.file, self.folder / "last.pt",
            )  # fmt: skip

    def _name(self) -> str:
        return str(getattr(self.evaluator.state, "key_metric_name", None) or "score")

    def _metric(self) -> float:
        return float(self.evaluator.state.metrics.get(self._name(), math.nan))
