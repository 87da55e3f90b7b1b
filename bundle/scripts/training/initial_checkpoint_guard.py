# SPDX-License-Identifier: Apache-2.0
"""Weights that a training starts from are replaced only by better ones, and are kept."""

from __future__ import annotations

import logging
import math
import shutil
from pathlib import Path

import torch
from ignite.engine import Engine, Events
from torch import nn

from ..core.files import atomic_write
from .distributed.processes import is_main

logger = logging.getLogger(__name__)
FOLDER = "kept"


class InitialCheckpointGuard:
    """Handler that scores the weights a training starts from, so that they count as its first candidate for the best.

    Put it in front of the ``ValidationHandler`` of the trainer. The evaluator's ``CheckpointSaver`` then writes the file of
    the best weights with those of the start, and afterwards only with better ones. Copies lie in a folder of their own,
    where no server offers them as models: ``original.pt`` (what was there before the very first such training, written once),
    ``previous.pt`` (what was there before this one) and ``last.pt`` (the end of this one, better or not).

    Args:
        ckpt_dir: folder of the weights.
        network: network that is trained.
        evaluator: engine that validates.
        filename: file of the best weights.
    """

    def __init__(self, ckpt_dir: str, network: nn.Module, evaluator: Engine, filename: str = "model.pt") -> None:
        self.file, self.network, self.evaluator = Path(ckpt_dir) / filename, network, evaluator
        self.kept = self.file.parent / FOLDER
        self.before, self.scored = math.nan, -1
        self.trainer: Engine | None = None

    def attach(self, engine: Engine) -> None:
        """Register at a trainer."""
        self.trainer = engine
        engine.add_event_handler(Events.STARTED, self._begin)
        engine.add_event_handler(Events.COMPLETED, self._end)
        self.evaluator.add_event_handler(Events.COMPLETED, self._note)

    def _note(self, evaluator: Engine) -> None:
        assert self.trainer is not None
        self.scored = self.trainer.state.epoch

    def _begin(self, engine: Engine) -> None:
        if engine.state.epoch > 0:  # a run that is taken up again: it scored them when it began
            return
        if self.file.is_file() and is_main():
            for name in ("original.pt", "previous.pt"):
                if name == "previous.pt" or not (self.kept / name).is_file():
                    with atomic_write(self.kept / name) as temporary:
                        shutil.copyfile(self.file, temporary)
        self.evaluator.run(1)  # type: ignore[arg-type]  # MONAI's evaluator takes the number of the epoch
        self.before = self._metric()
        logger.info("the weights that training starts from: %s %.4f", self._name(), self.before)

    def _end(self, engine: Engine) -> None:
        if (
            self.scored != engine.state.epoch
        ):  # an interval between validations must not cost a short training its result
            self.evaluator.run(engine.state.epoch)  # type: ignore[arg-type]
        if is_main():
            with atomic_write(self.kept / "last.pt") as temporary:
                torch.save(self.network.state_dict(), temporary)
        best, name = float(self.evaluator.state.best_metric), self._name()
        if math.isnan(self.before):
            logger.info("%s %.4f: %s holds the best weights", name, best, self.file)
        elif best > self.before:
            logger.info("%s %.4f before, %.4f now: %s holds the better weights", name, self.before, best, self.file)
        else:
            logger.warning(
                "no epoch was better than the weights that training started from (%s %.4f): %s stays as it was; "
                "the end of this training is %s", name, self.before, self.file, self.kept / "last.pt",
            )  # fmt: skip

    def _name(self) -> str:
        return str(getattr(self.evaluator.state, "key_metric_name", None) or "score")

    def _metric(self) -> float:
        return float(self.evaluator.state.metrics.get(self._name(), math.nan))
