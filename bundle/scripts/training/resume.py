# SPDX-License-Identifier: Apache-2.0
"""What a training needs to go on after it was cut off: written after every epoch, every few minutes, and when asked to end."""

from __future__ import annotations

import hashlib
import json
import logging
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from ignite.engine import Engine, Events
from monai.handlers import CheckpointSaver, EarlyStopHandler
from torch import distributed, nn

from ..core.config_diff import differences, running_config, training_relevant
from ..core.errors import InputError
from .checkpoint import forget_state, read_state, write_checkpoint
from .distributed.processes import is_main, rank
from .shutdown import GracefulShutdown

logger = logging.getLogger(__name__)
SAVE, STOP = 1, 2
# Ids that may change between the parts of a run: they decide how long it goes on, or only how fast.
MAY_CHANGE = ("epochs", "check_data", "cache_rate", "cache_dir", "checkpoint_interval_minutes")
SCALERS = ("scaler", "g_scaler", "d_scaler")  # MONAI's trainers keep them at the engine, adversarial ones at its state


class TrainingState:
    """Save a run so that it can be taken up again, and take it up again.

    Attach it to the trainer before all that looks at the trainer's epoch when it starts; it saves after all others of an epoch.
    Order and augmentation of the samples follow from seed, epoch and case (``scripts.training.sampling``), and PyTorch's
    generator is seeded anew for every epoch, so that a run that is taken up again goes the way of one that was never cut off. The
    file is deleted when the training ends. With several processes, rank 0 writes and all read.

    Asked to end (SIGTERM, Ctrl-C) the run saves after the step it is in and ends without ``Events.COMPLETED``; the name of the
    signal is left in ``engine.state.stopped_by``.

    Args:
        path: file of the state; the one before it lies beside it.
        modules: what is saved by its ``state_dict``, by name: networks, optimizers, schedules.
        sampler: its ``epoch`` and ``start`` are set at the start of every epoch.
        evaluator: engine that validates.
        val_handlers: its handlers; early stopping and the best checkpoint are found among them by type.
        seed: of the run.
        resume: take up the state where there is one; False deletes it.
        minutes: time after which an epoch is saved in its midst.
        data: cases of the training, that other ones are noticed.
    """

    def __init__(
        self,
        path: str,
        modules: Mapping[str, nn.Module],
        sampler: Any,
        evaluator: Engine | None = None,
        val_handlers: Sequence = (),
        seed: int = 0,
        resume: bool = True,
        minutes: float = 10.0,
        data: Sequence[Mapping] = (),
    ) -> None:
        self.path, self.modules, self.sampler, self.evaluator = Path(path), dict(modules), sampler, evaluator
        self.val_handlers, self.seed, self.resume = list(val_handlers), seed, resume
        self.minutes, self.data = minutes, data
        self.settings = training_relevant(running_config(), MAY_CHANGE)
        self.stop = GracefulShutdown()
        self._saved, self._random, self._start = time.monotonic(), None, 0
        self._trainer: Engine | None = None

    def attach(self, engine: Engine) -> None:
        """Register at a trainer."""
        self._trainer = engine
        engine.add_event_handler(Events.STARTED, self._load)
        engine.add_event_handler(Events.EPOCH_STARTED, self._begin)
        engine.add_event_handler(Events.COMPLETED, self._end)
        if self.evaluator is not None:
            self.evaluator.add_event_handler(Events.ITERATION_COMPLETED, self._validated)

    # ------------------------------------------------------------ what is saved
    def _stateful(self) -> dict[str, Any]:
        """Everything with a ``state_dict``, by name."""
        found: dict[str, Any] = dict(self.modules)
        for number, handler in enumerate(self.val_handlers):
            if isinstance(handler, EarlyStopHandler) and handler._handler is not None:
                found[f"early_stop_{number}"] = handler._handler
            if isinstance(handler, CheckpointSaver) and handler._key_metric_checkpoint is not None:
                found[f"best_checkpoint_{number}"] = handler._key_metric_checkpoint
        if getattr(self._trainer, "history", None) is not None:
            found["history"] = self._trainer.history  # type: ignore[union-attr]
        for name in SCALERS:
            scaler = getattr(self._trainer, name, None) or getattr(self._trainer.state, name, None)  # type: ignore[union-attr]
            if scaler is not None:
                found[name] = scaler
        return found

    def _cases(self) -> dict[str, str]:
        """Names of the training cases as one hash, and their number."""
        names = sorted(
            Path(str(case["image"])).name for case in self.data if isinstance(case, Mapping) and "image" in case
        )
        return {"cases": str(len(names)), "names": hashlib.sha256(json.dumps(names).encode()).hexdigest()}

    def _save(self, engine: Engine, within: bool = False, validated: bool = True) -> None:
        """Write the state; ``within`` an epoch, or at its end with the validation still to come."""
        random = self._random_states() if within else None  # of all processes, so all of them come here
        self._saved = time.monotonic()
        if not is_main():
            return
        epoch, iteration = engine.state.epoch, engine.state.iteration
        content: dict[str, Any] = {
            "epoch": epoch - within, "iteration": iteration, "validated": validated, "random": random,
            "settings": self.settings, "data": self._cases(),
        }  # fmt: skip
        if self.evaluator is not None:
            state = self.evaluator.state
            content["best"] = [float(state.best_metric), int(state.best_metric_epoch)]
        content |= {name: item.state_dict() for name, item in self._stateful().items()}
        write_checkpoint(self.path, content, header=True)

    @staticmethod
    def _random_states() -> list[dict[str, Any]]:
        own: dict[str, Any] = {"cpu": torch.get_rng_state()}
        if torch.cuda.is_available():
            own["cuda"] = torch.cuda.get_rng_state()
        if not _several():
            return [own]
        states: list[Any] = [None] * distributed.get_world_size()
        distributed.all_gather_object(states, own)
        return states

    # ------------------------------------------------------------ when it is saved
    def _begin(self, engine: Engine) -> None:
        self.sampler.epoch, self.sampler.start = engine.state.epoch, self._start
        others = [rank()] if rank() else []  # so that no two processes drop the same features
        torch.manual_seed(int(np.random.SeedSequence([self.seed, engine.state.epoch, *others]).generate_state(1)[0]))
        if self._start and self._random:
            own = self._random[min(rank(), len(self._random) - 1)]
            torch.set_rng_state(own["cpu"].cpu())
            if "cuda" in own and torch.cuda.is_available():
                torch.cuda.set_rng_state(own["cuda"].cpu())
        self._start = 0

    def _step(self, engine: Engine) -> None:
        wish = STOP if self.stop.name else SAVE if time.monotonic() - self._saved > 60 * self.minutes else 0
        if _several():  # a signal may reach one process a step before the others; they must agree
            shared = torch.tensor(wish, device=engine.state.device)
            distributed.all_reduce(shared, op=distributed.ReduceOp.MAX)
            wish = int(shared)
        last = engine.state.iteration % engine.state.epoch_length == 0
        if wish == SAVE and not last:  # at its end an epoch is saved anyway
            self._save(engine, within=True)
        elif wish == STOP and not last:
            self._save(engine, within=True)
            self._stop(engine)
        elif wish == STOP:
            self._save(engine, validated=False)
            self._stop(engine)

    def _validated(self, evaluator: Engine) -> None:
        """A validation may take minutes, so a request is answered between two volumes; several processes finish it together."""
        trainer = self._trainer
        if self.stop.name is None or trainer is None or _several() or getattr(trainer.state, "stopped_by", None):
            return
        if trainer.state.epoch > 0:
            self._save(trainer, validated=False)
        evaluator.terminate(skip_completed=True)
        self._stop(trainer)

    def _stop(self, engine: Engine) -> None:
        engine.state.stopped_by = self.stop.name or "SIGTERM"  # type: ignore[attr-defined]  # in another process
        engine.terminate(skip_completed=True)

    def _epoch(self, engine: Engine) -> None:
        if not getattr(engine.state, "stopped_by", None) and not getattr(engine.state, "failure", None):
            self._save(engine)

    # ------------------------------------------------------------ taking it up again
    def _load(self, engine: Engine) -> None:
        if not engine.has_event_handler(
            self._epoch, Events.EPOCH_COMPLETED
        ):  # here, so that it comes behind the validation
            engine.add_event_handler(Events.ITERATION_COMPLETED, self._step)
            engine.add_event_handler(Events.EPOCH_COMPLETED, self._epoch)
        self.stop.listen()
        self._saved = time.monotonic()
        if not self.resume and is_main():
            forget_state(self.path)
        content, file = read_state(self.path, engine.state.device) if self.resume else (None, self.path)
        if content is None:
            return
        self._compare(content, file)
        try:
            for name, item in self._stateful().items():
                item.load_state_dict(content[name])
        except (KeyError, RuntimeError, ValueError, TypeError) as error:
            reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
            raise InputError(f"{file}: does not fit this run ({reason}); give --resume False to start anew") from None
        if self.evaluator is not None:
            self.evaluator.state.best_metric, self.evaluator.state.best_metric_epoch = content["best"]
        engine.state.epoch, engine.state.iteration = content["epoch"], content["iteration"]
        steps = engine.state.iteration - engine.state.epoch * engine.state.epoch_length
        self._random, self._start = content["random"], max(steps, 0) * engine.data_loader.batch_size  # type: ignore[attr-defined]
        logger.info(
            "%s: goes on after epoch %d%s", file, engine.state.epoch, f" and {steps} steps" if steps > 0 else ""
        )
        if not content["validated"]:
            engine.add_event_handler(Events.STARTED, self._catch_up)

    def _compare(self, content: Mapping[str, Any], file: Path) -> None:
        found = differences(content["settings"], self.settings) if self.settings and content["settings"] else []
        if self.data and content["data"] != self._cases():
            found.insert(
                0, f"training cases: {content['data']['cases']} and {self._cases()['cases']}, not all the same"
            )
        if found:
            raise InputError(
                f"{file}: the run was begun with other settings (then and now): {'; '.join(found)}; "
                "give the former ones, another --output_dir, or --resume False to start anew"
            )

    def _catch_up(self, engine: Engine) -> None:
        """Do what the end of the epoch still owes: its validation and all that follows from it."""
        engine.remove_event_handler(self._catch_up, Events.STARTED)
        engine.fire_event(Events.EPOCH_COMPLETED)

    def _end(self, engine: Engine) -> None:
        self.stop.release()
        if is_main():
            forget_state(self.path)


def _several() -> bool:
    return distributed.is_available() and distributed.is_initialized() and distributed.get_world_size() > 1
