# SPDX-License-Identifier: Apache-2.0
"""What a training needs to go on after it was cut off, written after every epoch."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from ignite.engine import Engine, Events
from monai.handlers import CheckpointSaver, EarlyStopHandler
from torch import nn

from ..errors import InputError
from ..files import replacing
from .parallel import is_main, rank

logger = logging.getLogger(__name__)


class TrainingState:
    """Save weights, optimizer, schedule, early stopping and best score after every epoch; take them up again at the start.

    Attach it to the trainer before all that looks at the trainer's epoch when it starts; it saves after all others of an epoch.
    Order and augmentation of the samples follow from seed, epoch and case (``scripts.training.sampling``), and PyTorch's generator
    is seeded anew for every epoch, so that a run that is taken up again goes the way of one that was never cut off. The file is
    deleted when the training ends.

    Args:
        path: file of the state.
        modules: what is saved by its ``state_dict``, by name: networks, optimizers, schedules.
        sampler: its ``epoch`` is set at the start of every epoch.
        evaluator: engine that validates.
        val_handlers: its handlers; early stopping and the best checkpoint are found among them by type.
        seed: of the run.
        resume: take up the state where ``path`` exists; False deletes it.
    """

    def __init__(
        self,
        path: str,
        modules: dict[str, nn.Module],
        sampler,
        evaluator: Engine | None = None,
        val_handlers: Sequence = (),
        seed: int = 0,
        resume: bool = True,
    ) -> None:
        self.path, self.modules, self.sampler, self.evaluator = Path(path), modules, sampler, evaluator
        self.val_handlers, self.seed, self.resume = list(val_handlers), seed, resume

    def attach(self, engine: Engine) -> None:
        """Register at a trainer."""
        engine.add_event_handler(Events.STARTED, self._load)
        engine.add_event_handler(Events.EPOCH_STARTED, self._seed)
        engine.add_event_handler(Events.COMPLETED, self._end)

    def _stateful(self) -> dict[str, object]:
        """Everything with a ``state_dict``, by name."""
        found: dict[str, object] = dict(self.modules)
        for number, handler in enumerate(self.val_handlers):
            if isinstance(handler, EarlyStopHandler) and handler._handler is not None:
                found[f"early_stop_{number}"] = handler._handler
            if isinstance(handler, CheckpointSaver) and handler._key_metric_checkpoint is not None:
                found[f"best_checkpoint_{number}"] = handler._key_metric_checkpoint
        return found

    def _seed(self, engine: Engine) -> None:
        self.sampler.epoch = engine.state.epoch
        others = [rank()] if rank() else []  # so that no two processes drop the same features
        torch.manual_seed(int(np.random.SeedSequence([self.seed, engine.state.epoch, *others]).generate_state(1)[0]))

    def _save(self, engine: Engine) -> None:
        content: dict[str, object] = {"epoch": engine.state.epoch, "iteration": engine.state.iteration}
        if self.evaluator is not None:
            state = self.evaluator.state
            content["best"] = [float(state.best_metric), int(state.best_metric_epoch)]
        content |= {name: item.state_dict() for name, item in self._stateful().items()}  # type: ignore[attr-defined]
        if not is_main():
            return
        with replacing(self.path) as temporary:
            torch.save(content, temporary)

    def _load(self, engine: Engine) -> None:
        if not engine.has_event_handler(
            self._save, Events.EPOCH_COMPLETED
        ):  # here, so that it comes behind the validation
            engine.add_event_handler(Events.EPOCH_COMPLETED, self._save)
        if not self.resume and is_main():
            self.path.unlink(missing_ok=True)
        if not self.resume or not self.path.is_file():
            return
        try:
            content = torch.load(self.path, map_location=engine.state.device, weights_only=True)
            for name, item in self._stateful().items():
                item.load_state_dict(content[name])  # type: ignore[attr-defined]
        except Exception as error:
            reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
            raise InputError(
                f"{self.path}: cannot be taken up again ({reason}); delete it or give --resume False to start anew"
            ) from None
        if self.evaluator is not None:
            self.evaluator.state.best_metric, self.evaluator.state.best_metric_epoch = content["best"]
        engine.state.epoch, engine.state.iteration = content["epoch"], content["iteration"]
        logger.info("%s: goes on after epoch %d", self.path, engine.state.epoch)

    def _end(self, engine: Engine) -> None:
        if is_main():
            self.path.unlink(missing_ok=True)
