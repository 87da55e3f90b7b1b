# SPDX-License-Identifier: Apache-2.0
"""State of an interrupted training: saved after every epoch, every few minutes and on a signal; loaded to resume bitwise."""

from __future__ import annotations

import hashlib
import json
import logging
import os
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from ignite.engine import Engine, Events
from monai.handlers import CheckpointSaver, EarlyStopHandler
from torch import distributed, nn

from ..core.config_diff import differences, running_config, training_relevant
from ..core.deprecations import migrate_config
from ..core.errors import InputError, first_line
from .checkpoint_files import delete_state, read_state, write_checkpoint
from .distributed.processes import is_main, rank, world_size
from .fit import end_of_training
from .graphed_step import release
from .run_folder import FINISHED_STATE, LENGTHS, finish, restart
from .schedule import load_state
from .shutdown import GracefulShutdown

logger = logging.getLogger(__name__)
FORMAT = 4  # of the state; states of version 0.5 have none, 2 is that of versions 0.6 and 0.7, 3 that of 0.8
SAVE, STOP, FAILED = 1, 2, 3
# Ids that may change between the parts of a run: they set its length, its speed or its display.
MAY_CHANGE = (*LENGTHS, "check_data", "cache_rate", "cache_dir", "checkpoint_interval_minutes", "progress")
# Sections of train.yaml that version 0.6 rearranged without a change of the training; their settings are knobs, which are compared.
REARRANGED = (
    "train",
    "validate",
    "parallel",
    "initialize",
    "finalize",
    "training",
    "run",
    "fit",
    "preflight",
    "imports",
    "early_stop",
)
GRAPHED = "graphed_step"
# Ids since version 0.25, with the values by which a run equals one without them.
DEFAULTS = {"distilled_where": '"vertebrae"', "distillation_loss::where": '"@distilled_where"'}
SCALERS = ("scaler", "g_scaler", "d_scaler")  # attributes of MONAI's trainers, of adversarial ones of their state


def resumable(settings: dict[str, str]) -> dict[str, str]:
    """Settings without those that older versions lack and that change nothing: a CUDA graph, and new ids with their defaults."""
    step = "train::trainer::iteration_update::"
    graphed = GRAPHED in settings.get(f"{step}_target_", "")
    return {k: v for k, v in settings.items() if not (graphed and k.startswith(step)) and v != DEFAULTS.get(k)}


def comparable(stored: Mapping[str, str], current: Mapping[str, str]) -> tuple[dict[str, str], dict[str, str]]:
    """Settings of a state of an older version and of this run that both have, under the names of this version.

    Args:
        stored: flat view of the config of an older version, values as JSON, see ``core.config_diff.training_relevant``.
        current: flat view of this run's config.
    """
    nested: dict[str, Any] = {}
    for name, value in stored.items():
        *parents, last = name.split("::")
        node = nested
        for parent in parents:
            node = node.setdefault(parent, {})
        node[last] = json.loads(value)
    migrated = training_relevant(migrate_config(nested, quiet=True), MAY_CHANGE)
    names = [n for n in migrated if n in current and n.split("::")[0] not in REARRANGED]
    # Expressions are defaults, whose text changed between the versions.
    names = [n for n in names if not migrated[n].startswith('"$') or not current[n].startswith('"$')]
    if (
        stored.get("neighbours", "0") == "0"
    ):  # without neighbours their distance, whose default changed in version 0.8, has no effect
        names = [n for n in names if n != "neighbour_mm"]
    if "steps_per_epoch" not in migrated and "steps_per_epoch" in current:  # until version 0.8 an epoch was one pass
        migrated["steps_per_epoch"] = "null"
        names.append("steps_per_epoch")
    return {n: migrated[n] for n in names}, {n: current[n] for n in names}


def renumbered(content: Mapping[str, Any]) -> dict[str, Any]:
    """State of an older version, which numbered early stopping and savers by their places among all handlers."""
    result = dict(content)
    for kind in ("early_stop_", "best_checkpoint_"):
        names = sorted((n for n in content if n.startswith(kind)), key=lambda n: int(n.removeprefix(kind)))
        values = [result.pop(name) for name in names]
        result |= {f"{kind}{number}": value for number, value in enumerate(values)}
    return result


class TrainingState:
    """Handler of a trainer that saves the state of a run and resumes from it.

    Attach it before all handlers that read the trainer's epoch at the start; it saves after all others of an epoch. Order and
    augmentation of the samples are functions of seed, epoch and case (``scripts.training.sampling``), and PyTorch's generator is
    seeded for every epoch, so that a resumed run equals an uninterrupted one bitwise. At its end the training renames
    the file to ``finished.pt``, from which a longer run continues. With several processes, rank 0 writes and all read.

    On SIGTERM or Ctrl-C the run saves after the current step and ends without ``Events.COMPLETED``; the name of the signal is left
    in ``engine.state.stopped_by``. After the last validation a first signal changes nothing: the run is complete, and its files are
    written.
    ``scripts.training.fit`` restores the handlers.

    Args:
        path: file of the state; the previous one lies next to it.
        modules: objects with a ``state_dict``, by name: networks, optimizers, schedulers.
        sampler: sampler whose ``epoch`` and ``start`` are set at the start of every epoch.
        evaluator: engine that validates.
        val_handlers: its handlers; early stopping and the best checkpoint are found among them by type.
        seed: seed of the run.
        resume: load the state if there is one; False deletes it.
        minutes: interval of saving within an epoch.
        data: cases of the training; a state of other cases is refused.
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
        config = running_config()
        self.settings = resumable(training_relevant(config, MAY_CHANGE))
        self.lengths = {k: config[k] for k in LENGTHS if isinstance(config.get(k), (int, float, type(None))) and k in config}
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
        objects: dict[str, Any] = dict(self.modules)
        stops = [h._handler for h in self.val_handlers if isinstance(h, EarlyStopHandler) and h._handler is not None]
        savers = [h for h in self.val_handlers if isinstance(h, CheckpointSaver) and h._key_metric_checkpoint is not None]
        # Numbered among their kind: their places in the list depend on handlers that only show progress.
        objects |= {f"early_stop_{number}": stop for number, stop in enumerate(stops)}
        objects |= {f"best_checkpoint_{number}": saver._key_metric_checkpoint for number, saver in enumerate(savers)}
        for name in ("history", "time_limit"):  # attributes that these handlers set
            if getattr(self._trainer, name, None) is not None:
                objects[name] = getattr(self._trainer, name)
        for name in SCALERS:
            scaler = getattr(self._trainer, name, None) or getattr(self._trainer.state, name, None)  # type: ignore[union-attr]
            if scaler is not None:
                objects[name] = scaler
        return objects

    def _cases(self) -> dict[str, str]:
        """Number of the training cases and hash of their names."""
        cases = [case for case in self.data if isinstance(case, Mapping) and "image" in case]
        names = sorted(Path(str(case["image"])).name for case in cases)
        count = Counter(names)
        # With folders only where they distinguish images of one name, so that a folder of data may be moved.
        parts = {name: 1 if n == 1 else 2 for name, n in count.items()}
        files = sorted(
            [str(case.get("patient")), "/".join((path := Path(str(case["image"]))).parts[-parts[path.name] :])] for case in cases
        )
        hashes = {"names": names, "files": files}
        return {"cases": str(len(cases))} | {k: hashlib.sha256(json.dumps(v).encode()).hexdigest() for k, v in hashes.items()}

    def _save(self, engine: Engine, within: bool = False, validated: bool = True) -> None:
        """Write the state: ``within`` an epoch, or at its end, there with or without its validation."""
        random = self._random_states() if within else None  # gathered from all processes, so before the return
        self._saved = time.monotonic()
        if not is_main():
            return
        epoch, iteration = engine.state.epoch, engine.state.iteration
        content: dict[str, Any] = {
            "epoch": epoch - within, "iteration": iteration, "validated": validated, "random": random,
            "format": FORMAT, "settings": self.settings, "data": self._cases(),
        }  # fmt: skip
        if self.evaluator is not None:
            state = self.evaluator.state
            content["best"] = [float(state.best_metric), int(state.best_metric_epoch)]
        content |= {name: item.state_dict() for name, item in self._stateful().items()}
        write_checkpoint(self.path, content, header=True)

    @staticmethod
    def _random_states() -> list[dict[str, Any]]:
        state: dict[str, Any] = {"cpu": torch.get_rng_state()}
        if torch.cuda.is_available():
            state["cuda"] = torch.cuda.get_rng_state()
        if world_size() == 1:
            return [state]
        states: list[Any] = [None] * world_size()
        distributed.all_gather_object(states, state)
        return states

    # ------------------------------------------------------------ when it is saved
    def _begin(self, engine: Engine) -> None:
        self.sampler.epoch, self.sampler.start = engine.state.epoch, self._start
        others = [rank()] if rank() else []  # so that dropout differs between processes
        torch.manual_seed(int(np.random.SeedSequence([self.seed, engine.state.epoch, *others]).generate_state(1)[0]))
        if self._start and self._random:
            state = self._random[min(rank(), len(self._random) - 1)]
            torch.set_rng_state(state["cpu"].cpu())
            if "cuda" in state and torch.cuda.is_available():
                torch.cuda.set_rng_state(state["cuda"].cpu())
        self._start = 0

    def _step(self, engine: Engine) -> None:
        action = (
            FAILED
            if getattr(engine.state, "failure", None)
            else STOP
            if self.stop.name
            else SAVE
            if time.monotonic() - self._saved > 60 * self.minutes
            else 0
        )
        if world_size() > 1:  # a signal may reach one process a step before the others
            shared = torch.tensor(action, device=engine.state.device)
            distributed.all_reduce(shared, op=distributed.ReduceOp.MAX)
            action = int(shared)
        last = engine.state.iteration % engine.state.epoch_length == 0
        if action == STOP or (action == SAVE and not last):  # at its end an epoch is saved anyway
            self._save(engine, within=not last, validated=not last)
        if action == STOP:
            self._stop(engine)

    def _validated(self, evaluator: Engine) -> None:
        """Stop between two volumes, because a validation may take minutes; several processes complete it together."""
        trainer = self._trainer
        if self.stop.name is None or trainer is None or world_size() > 1 or getattr(trainer.state, "stopped_by", None):
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

    # ------------------------------------------------------------ resume
    def _load(self, engine: Engine) -> None:
        # Registered at the start, so that it runs after the validation.
        if not engine.has_event_handler(self._epoch, Events.EPOCH_COMPLETED):
            engine.add_event_handler(Events.ITERATION_COMPLETED, self._step)
            engine.add_event_handler(Events.EPOCH_COMPLETED, self._epoch)
        self.stop.listen()
        self._saved = time.monotonic()
        if not self.resume and is_main():
            delete_state(self.path)
            restart(self.path.parent)
        content, file = read_state(self.path, engine.state.device) if self.resume else (None, self.path)
        finished = self.path.with_name(FINISHED_STATE)
        if self.resume and content is None and finished.is_file():  # a longer run: `run_folder.check_unfinished` refuses others
            content, file = read_state(finished, engine.state.device)
        if content is None:
            return
        self._compare(content, file)
        if content.get("format", 1) < FORMAT:
            content = renumbered(content)
        try:
            for name, item in self._stateful().items():
                # States of version 0.7 have no time, those of another kind of device no scaler.
                if name not in ("time_limit", *SCALERS) or name in content:
                    load_state(item, content[name])
                    release(item)
        except (KeyError, RuntimeError, ValueError, TypeError) as error:
            raise InputError(
                f"{file}: does not fit this run ({first_line(error)}); set --resume False to start from scratch"
            ) from None
        if self.evaluator is not None:
            self.evaluator.state.best_metric, self.evaluator.state.best_metric_epoch = content["best"]
        # A run that has ended by time ended within an epoch, which counts as a whole.
        least = content["epoch"] * engine.state.epoch_length
        engine.state.epoch, engine.state.iteration = content["epoch"], max(content["iteration"], least)
        steps = engine.state.iteration - engine.state.epoch * engine.state.epoch_length
        self._random, self._start = content["random"], max(steps, 0) * engine.data_loader.batch_size  # type: ignore[attr-defined]
        logger.info("%s: resumed after epoch %d%s", file, engine.state.epoch, f" and {steps} steps" if steps > 0 else "")
        if not content["validated"]:
            engine.add_event_handler(Events.STARTED, self._catch_up)

    def _compare(self, content: Mapping[str, Any], file: Path) -> None:
        stored, current = content["settings"], self.settings
        if stored and current and content.get("format", 1) < FORMAT:
            stored, current = comparable(stored, current)
        changes = differences(stored, current) if stored and current else []
        cases = self._cases() if self.data else {}
        if cases and any(cases.get(k) != v for k, v in content["data"].items()):  # without "files" before 0.24
            changes.insert(0, f"training cases: {content['data']['cases']} and {cases['cases']}, not all the same")
        if changes:
            raise InputError(
                f"{file}: the run was started with other settings (then and now): {'; '.join(changes)}; "
                "use the original settings, another --output_dir, or --resume False to start from scratch"
            )

    def _catch_up(self, engine: Engine) -> None:
        """Complete an epoch that was stopped before its validation."""
        engine.remove_event_handler(self._catch_up, Events.STARTED)
        engine.fire_event(Events.EPOCH_COMPLETED)

    def _end(self, engine: Engine) -> None:
        if not is_main():
            return
        if self.path.is_file():  # for a longer run
            os.replace(self.path, self.path.with_name(FINISHED_STATE))
        delete_state(self.path)
        finish(self.path.parent, end_of_training(engine, self.evaluator), engine.state.epoch, engine.state.iteration, self.lengths)
