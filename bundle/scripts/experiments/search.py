# SPDX-License-Identifier: Apache-2.0
"""Command ``search``: hyper-parameters by Optuna, each trial a bundle run whose validations are reported and pruned."""

from __future__ import annotations

import math
import queue
import re
import threading
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..core.errors import InputError, first_line
from ..core.files import ensure_same_settings
from ..core.folder_lock import HEARTBEAT_S, STALE_S, FolderLock
from ..core.program import command
from .launch import Variables, stop_on_signal, worker_environments
from .search_report import best_trial, effective_trials, write_results
from .search_space import Space, load_space, require_optuna
from .suite.record import datalist_hash, read_history, read_record, write_record
from .suite.run import resolve_datalist, results_folder
from .suite.stages import TRAINING, RunError, SuiteContext, prepare_training, run_stage

if TYPE_CHECKING:
    from optuna import Study, Trial
    from optuna.storages import BaseStorage
    from optuna.trial import FrozenTrial


class TrialError(Exception):
    """A trial has no value."""


class LostTrialError(BaseException):
    """A trial was failed as stale and retried by another worker; not an ``Exception``, so that Optuna records no end of it."""


def hide_password(url: str) -> str:
    """Address of a storage without its password."""
    url = re.sub(r"(?<=://)([^:/@]*):.*@", r"\1:***@", url)
    return re.sub(r"(?i)(passw(?:or)?d=)[^&\s]*", r"\1***", url)


def open_storage(url: str | None, root: Path, retries: int = 0) -> BaseStorage:
    """Open the storage of a study, by default ROOT/study.db; ``InputError`` without password when it cannot be used."""
    storages, address = require_optuna().storages, url or f"sqlite:///{root / 'study.db'}"
    try:
        if address.startswith("journal://") or (address.endswith(".log") and "://" not in address):
            return storages.JournalStorage(storages.journal.JournalFileBackend(address.removeprefix("journal://")))
        connect = {"timeout": 60} if address.startswith("sqlite") else {"connect_timeout": 10}
        return storages.RDBStorage(
            re.sub(r"^postgres(ql)?://", "postgresql+psycopg://", address),
            engine_kwargs={"pool_pre_ping": True, "connect_args": connect},
            heartbeat_interval=int(HEARTBEAT_S),
            grace_period=int(STALE_S),
            heartbeat_stale_trial_callback=storages.RetryHeartbeatStaleTrialCallback(max_retry=retries),
        )
    except Exception as error:
        reason, password = first_line(error.__cause__ or error), re.search(r"://[^:/@]*:(.*)@", address)
        if password and any(part in reason for part in re.split(r"\W+", password[1]) if part):
            reason = type(error).__name__  # a driver that quotes a part of the address
        raise InputError(
            f"--storage {hide_password(address)}: cannot be used ({reason}); must be sqlite:////PATH/study.db or "
            "journal:////PATH/study.log in a folder that can be written, or postgresql://USER@HOST/NAME of a running server "
            "(pip install 'psycopg[binary]')"
        ) from None


def open_study(url: str | None, space: Space, root: Path, name: str, data_sha256: str) -> Study:
    """Create a study and queue its first trial, or join it; ``InputError`` for another space, other data or another folder."""
    storage, shown = open_storage(url, root, space.content["retries"]), hide_password(url or "study.db")
    settings = {**space.settings(), "data": data_sha256}
    if not (url or "").startswith("postgres"):
        settings["folder"] = str(root)  # machines with a server may have folders of their own
    ensure_same_settings(root, {"study": f"{name} in {shown}"})
    settled = {"direction": space.content["direction"], "load_if_exists": True, **space.parts}
    study = require_optuna().create_study(storage=storage, study_name=name, **settled)
    begun = study.user_attrs.get("settings")
    if begun is None:
        study.enqueue_trial(space.first())
        study.set_user_attr("settings", settings)
        return study
    if changed := [k for k, v in settings.items() if begun.get(k) != v]:
        remedy = "restore those, or begin another with --out or --study"
        raise InputError(f"study {name} in {shown}: was begun with other {changed[0]}; {remedy}")
    study.sampler.reseed_rng()  # with the seed of the space every worker would draw the same values
    return study


class TrialMonitor:
    """Report a trial's ``history.csv`` to Optuna while it grows; another ``state`` than complete ends the training."""

    def __init__(self, trial: Trial, folder: Path, metric: str, stop: threading.Event) -> None:
        self.trial, self.folder, self.metric, self.stop = trial, folder, metric, stop
        self.values: dict[int, float] = {}  # by epoch
        self.state, self.error = "complete", list[str]()

    def poll(self) -> bool:
        """Report new validations; False when the training must end."""
        errors = require_optuna().exceptions
        try:
            with suppress(errors.StorageInternalError):  # reported by a later call, when the server is back
                self.report()
        except errors.UpdateFinishedTrialError:
            self.state = "lost"
        return self.state == "complete" and not self.stop.is_set()

    def report(self, prune: bool = True) -> None:
        """Report the rows that were added to the table, up to a value that is not finite or an epoch that is pruned."""
        for row in read_history(self.folder):
            epoch, text = int(float(row["epoch"])), row.get(self.metric)
            if epoch in self.values or not text:
                continue
            if not math.isfinite(float(text)):
                self.state, self.error = "fail", [f"{self.metric} is {text} in epoch {epoch}, see {self.folder / 'log.txt'}"]
                return
            self.trial.report(float(text), epoch)
            self.values[epoch] = float(text)
            if prune and self.trial.should_prune():
                self.state = "pruned"
                return


class Worker:
    """Objective of a study, and the callback that follows every trial; one trial per environment runs at once."""

    def __init__(self, study: Study, space: Space, context: SuiteContext, trials: int, environments: Sequence[Variables]) -> None:
        self.study, self.space, self.context, self.trials = study, space, context, trials
        self.stop, self.jobs = threading.Event(), len(environments)
        self.environments = queue.SimpleQueue[Variables]()
        for variables in environments:
            self.environments.put(variables)

    def run(self) -> None:
        """Optimize until the study has all its trials or a signal stops the worker."""
        with stop_on_signal(self.stop):
            while self.has_room() and not self.stop.is_set():
                with suppress(LostTrialError):
                    self.study.optimize(self.objective, n_jobs=self.jobs, catch=TrialError, callbacks=[self.after_trial])

    def has_room(self) -> bool:
        """Queue the trials of killed workers again, and check that the study needs further trials."""
        optuna = require_optuna()
        optuna.storages.fail_stale_trials(self.study)  # those without heartbeat; a journal has none
        for trial in self.study.get_trials(states=(optuna.trial.TrialState.RUNNING,)):
            if trial.user_attrs.get("locked") == trial.number and FolderLock(self.folder(trial)).is_stale():
                with suppress(optuna.exceptions.UpdateFinishedTrialError):  # another worker was faster
                    self.study._storage.set_trial_state_values(trial._trial_id, state=optuna.trial.TrialState.FAIL)
                    self.retry(trial, self.space.content["retries"])
        return sum(t.state.name != "WAITING" for t in effective_trials(self.study)) < self.trials

    def retry(self, trial: FrozenTrial, most: int | None) -> None:
        """Queue a trial again with the same values, at most ``most`` times."""
        require_optuna().storages.RetryHeartbeatStaleTrialCallback(max_retry=most)(self.study, trial)

    def folder(self, trial: Any) -> Path:
        """Folder of a trial; a retry has that of its first attempt."""
        return self.context.root / trial.user_attrs.get("folder", f"trials/{trial.number:04d}")

    def after_trial(self, study: Study, trial: FrozenTrial) -> None:
        """Queue a stopped trial again, and stop the study when it has all its trials."""
        if trial.user_attrs.get("stopped") == trial.number:
            self.retry(trial, None)
        else:
            reason = f", {trial.user_attrs['error'][0]}; the other trials continue" if trial.state.name == "FAIL" else ""
            print(f"trial {trial.number}: {trial.state.name}{reason}", flush=True)
        if self.stop.is_set() or not self.has_room():
            study.stop()

    def objective(self, trial: Trial) -> float:
        """Best validation value of a training with the values of a trial."""
        folder, start, metric = self.folder(trial), time.perf_counter(), self.space.content["metric"]
        trial.set_user_attr("folder", folder.relative_to(self.context.root).as_posix())
        monitor, variables = TrialMonitor(trial, folder, metric, self.stop), self.environments.get()
        try:
            with FolderLock(folder, wait=lambda: not self.stop.is_set()) as lock:
                trial.set_user_attr("locked", trial.number)
                if lock.acquired:
                    self._train(trial, monitor, replace(self.context, environment=variables))
                else:
                    monitor.state = "cut off"
        except RunError as failure:
            if monitor.state == "complete":
                monitor.state = "cut off" if failure.outcome.stopped else "fail"
            monitor.error = [*(monitor.error or [str(failure)]), *failure.lines]
        except require_optuna().exceptions.UpdateFinishedTrialError:
            monitor.state = "lost"
        except InputError as failure:
            monitor.state, monitor.error = "fail", str(failure).splitlines()
        finally:
            self.environments.put(variables)
        if monitor.state == "lost":
            raise LostTrialError
        best_of = max if self.space.content["direction"] == "maximize" else min
        epoch, value = best_of(monitor.values.items(), key=lambda item: item[1], default=(None, math.nan))
        if monitor.state == "complete" and epoch is None:
            reason = f"history.csv has no {metric}; needs validation cases, and a val_interval within the epochs"
            monitor.state, monitor.error = "fail", [reason]
        write_record(folder, {**read_record(folder), "state": monitor.state})
        facts = {"best_epoch": epoch, "error": monitor.error * (monitor.state == "fail")}
        facts |= {"stopped": trial.number} if monitor.state == "cut off" else {}
        for key, fact in {"seconds": round(time.perf_counter() - start, 1), **facts}.items():
            trial.set_user_attr(key, fact)
        if monitor.state == "pruned":
            raise require_optuna().TrialPruned
        if monitor.state != "complete":
            raise TrialError("\n".join(monitor.error))
        return value

    def _train(self, trial: Trial, monitor: TrialMonitor, context: SuiteContext) -> None:
        """Train in the trial's folder; a retry resumes, and a training that has ended is not repeated."""
        folder, values = monitor.folder, {p.name: p.suggest(trial) for p in self.space.parameters}
        if not TRAINING.is_done(folder):
            if not (folder / "state.pt").is_file():  # files of an attempt that ended before its first state
                for name in ("history.csv", "model.pt", "record.json", "finished.json", "finished.pt"):
                    (folder / name).unlink(missing_ok=True)
            content = self.space.config(values, f"trial {trial.number}")
            prepare_training(folder, content, context.data[None], {"trial": trial.number, "values": values})
            run_stage(TRAINING, folder, context, poll=monitor.poll)
        monitor.report(prune=False)


def search(
    space: str,
    out: str | None = None,
    dataset_dir: str | None = None,
    trials: int | None = None,
    storage: str | None = None,
    study: str | None = None,
    setting: str | None = None,
    jobs: int = 1,
    gpus: Sequence[int] | None = None,
    device: str | None = None,
) -> str:
    """Search hyper-parameters; the same command again resumes the study, or works on it at the same time.

    Args:
        space: name of a space (default), or the path of a YAML file.
        out: folder of the results; by default runs/search_SPACE in the current folder.
        dataset_dir: folder with a datalist.json, or such a file; without it the setting's phantoms are generated.
        trials: trials that the study has in the end, pruned and failed ones included; by default as in the space.
        storage: address of the study, sqlite:///FILE, journal:///FILE.log or postgresql://USER@HOST/NAME; by default OUT/study.db.
        study: name of the study in the storage; by default that of the space.
        setting: name (small) or the path of a YAML file: sizes, and the phantoms.
        jobs: trials at once; with GPUS one per GPU.
        gpus: numbers of the GPUs to use.
        device: PyTorch's name, cpu or cuda:N, for every trial; by default as PyTorch chooses.
    """
    definition, environments = load_space(space, setting), worker_environments(jobs, gpus)
    total = definition.content["trials"] if trials is None else trials
    if total < 1:
        raise InputError(f"trials={total}: must be at least 1")
    root = results_folder(out, f"search_{definition.name}")
    datalist = resolve_datalist(definition.name, definition.phantom, root, dataset_dir)
    try:
        with FolderLock(root, wait=lambda: True):  # one worker alone creates the tables and the study
            data = datalist_hash(datalist, root / "hashes.json")
            shared = open_study(storage, definition, root, study or definition.name, data)
        context = SuiteContext(root, {None: datalist}, {None: data}, options={"device": device} if device else {})
        worker = Worker(shared, definition, context, total, environments)
        worker.run()
        if worker.stop.is_set():
            raise InputError(f"stopped; its trials are queued again, rerun the same command to resume from {root}")
        text = "\n".join(write_results(shared, definition, root))
    except require_optuna().exceptions.StorageInternalError as error:
        shown, reason = hide_password(storage or "study.db"), hide_password(first_line(error))
        raise InputError(f"--storage {shown}: was lost ({reason}); rerun the same command to resume") from None
    if best_trial(shared) is None:
        raise InputError(text)
    return text


def search_report(
    space: str, out: str | None = None, storage: str | None = None, study: str | None = None, setting: str | None = None
) -> str:
    """Write trials.csv, plots and best.yaml of a search while it runs or afterwards.

    Args:
        space: as for ``search``.
        out: as for ``search``.
        storage: as for ``search``.
        study: as for ``search``.
        setting: as for ``search``.
    """
    definition = load_space(space, setting)
    root, name = results_folder(out, f"search_{definition.name}"), study or definition.name
    if storage is None and not (root / "study.db").is_file():
        raise InputError(f"{root}: holds no study.db; --out and --storage must be those of `search`")
    try:
        loaded = require_optuna().load_study(study_name=name, storage=open_storage(storage, root))
    except KeyError:
        raise InputError(f"{root}: no study {name!r}; run `{command('experiments search')}` first") from None
    return "\n".join(write_results(loaded, definition, root))
