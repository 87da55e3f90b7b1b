# SPDX-License-Identifier: Apache-2.0
"""Command ``search``: hyper-parameters by Optuna, each trial a bundle run whose validations are reported and pruned."""

from __future__ import annotations

import math
import queue
import re
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tqdm import tqdm

from ..core.errors import InputError, first_line
from ..core.files import ensure_same_settings, read_table
from .launch import HEARTBEAT_S, STALE_S, FolderLock, stop_on_signal, worker_environments
from .search_report import best_trial, effective_trials, write_results
from .search_space import Space, load_space, make_part, require_optuna
from .suite.record import datalist_hash, read_record, write_record
from .suite.run import resolve_datalist, results_folder
from .suite.stages import TRAINING, RunError, SuiteContext, prepare_training, run_stage

if TYPE_CHECKING:
    import optuna

ATTEMPT_FILES = ("history.csv", "model.pt", "record.json")  # of an attempt that ended before its first state


class TrialError(Exception):
    """A trial has no value; the lines of the message are stored in the study."""


def hide_password(url: str) -> str:
    """Address of a storage without its password."""
    url = re.sub(r"(?<=://)([^:/@]*):.*@", r"\1:***@", url)
    return re.sub(r"(?i)(passw(?:or)?d=)[^&\s]*", r"\1***", url)


def open_storage(url: str | None, root: Path, retries: int = 0) -> optuna.storages.BaseStorage:
    """Open the storage of a study, by default ROOT/study.db; ``InputError`` without password when it cannot be used.

    A URL is ``sqlite:///FILE``, ``journal:///FILE.log``, a path that ends in .log, or ``postgresql://...``.
    """
    storages = require_optuna().storages
    address = url or f"sqlite:///{root / 'study.db'}"
    kind = "journal" if address.endswith(".log") and "://" not in address else address.partition("://")[0]
    try:
        if kind in ("journal", "sqlite"):
            path = Path(re.sub(r"^journal://|^sqlite:///", "", address).partition("?")[0])
            path.parent.mkdir(parents=True, exist_ok=True)
        if kind == "journal":
            return storages.JournalStorage(storages.journal.JournalFileBackend(str(path)))
        connect = {"timeout": 60} if kind == "sqlite" else {"connect_timeout": 10}
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


def open_study(
    storage: optuna.storages.BaseStorage, space: Space, root: Path, name: str, data_sha256: str, shown: str
) -> optuna.Study:
    """Create a study and queue its first trial, or join it; ``InputError`` for another space, other data or another folder."""
    optuna = require_optuna()
    parts = {kind: make_part(kind, space.content[kind], space.name) for kind in ("sampler", "pruner")}
    settings = {**space.settings(), "data": data_sha256}
    if not isinstance(storage, optuna.storages.RDBStorage) or storage.url.startswith("sqlite"):
        settings["folder"] = str(root)  # machines with a server may have folders of their own
    ensure_same_settings(root, {"study": f"{name} in {shown}"})
    direction = space.content["direction"]
    study = optuna.create_study(storage=storage, study_name=name, direction=direction, load_if_exists=True, **parts)
    begun = study.user_attrs.get("settings")
    if begun is None:
        study.enqueue_trial(space.first())
        study.set_user_attr("settings", settings)
        return study
    for key, value in settings.items():
        if begun.get(key) != value:
            raise InputError(
                f"study {name} in {shown}: was begun with other {key}; restore those, or begin another with --out or --study"
            )
    study.sampler.reseed_rng()  # with the seed of the space every worker would draw the same values
    return study


class TrialMonitor:
    """Report a trial's ``history.csv`` to Optuna while it grows, and end the training that is pruned or stopped."""

    def __init__(
        self, trial: optuna.Trial, folder: Path, space: Space, stop: threading.Event, progress: Callable[[str], None]
    ) -> None:
        self.trial, self.folder, self.stop, self.progress = trial, folder, stop, progress
        self.metric, self.sign = space.content["metric"], 1 if space.content["direction"] == "maximize" else -1
        self.reported: set[int] = set()
        self.best: tuple[float, int] | None = None  # value and epoch
        self.problem: str | None = None
        self.pruned = self.lost = False

    def poll(self) -> bool:
        """Report new validations; False when the training must end."""
        optuna = require_optuna()
        try:
            return not self.stop.is_set() and self.report()
        except optuna.exceptions.UpdateFinishedTrialError:  # failed as stale and retried by another worker
            self.lost = True
            return False
        except optuna.exceptions.StorageInternalError:  # reported by a later call, when the server is back
            return True

    def report(self, prune: bool = True) -> bool:
        """Report the rows that were added to the table; False for a value that is not finite or a pruned trial."""
        path = self.folder / "history.csv"
        for row in read_table(path) if path.is_file() else []:
            epoch, text = int(float(row["epoch"])), row.get(self.metric)
            if epoch in self.reported:
                continue
            for name, cell in ((self.metric, text), ("train_loss", row.get("train_loss"))):
                if cell and not math.isfinite(float(cell)):
                    self.problem = f"{name} is {cell} in epoch {epoch}, see {self.folder / 'log.txt'}"
                    return False
            if text:
                value = float(text)
                self.trial.report(value, epoch)
                if self.best is None or self.sign * value > self.sign * self.best[0]:
                    self.best = value, epoch
                self.progress(f"trial {self.trial.number} epoch {epoch} {value:.3f}")
                if prune and self.trial.should_prune():
                    self.pruned = True
                    return False
            self.reported.add(epoch)
        return True


class Worker:
    """Objective of a study, and the callback that follows every trial; one trial per environment runs at once."""

    def __init__(
        self, study: optuna.Study, space: Space, context: SuiteContext, trials: int, environments: Sequence[Mapping[str, str]]
    ) -> None:
        self.study, self.space, self.context, self.trials = study, space, context, trials
        self.stop, self.lost, self.jobs = threading.Event(), False, len(environments)
        self.environments = queue.SimpleQueue[Mapping[str, str]]()
        for variables in environments:
            self.environments.put(variables)
        self.bar = tqdm(total=trials, unit="trial", desc=study.study_name)

    def run(self) -> None:
        """Optimize until the study has all its trials or a signal stops the worker."""
        errors, callbacks = (RunError, TrialError), [self.after_trial]
        with stop_on_signal(self.stop), self.bar:
            while self.has_room() and not self.stop.is_set():
                try:
                    self.study.optimize(self.objective, n_jobs=self.jobs, catch=errors, callbacks=callbacks)
                    return
                except (ValueError, require_optuna().exceptions.UpdateFinishedTrialError):
                    if not self.lost:  # Optuna's error for a trial that another worker has failed
                        raise
                    self.lost = False

    def has_room(self) -> bool:
        """Queue the trials of killed workers again, and check that the study needs further trials."""
        optuna = require_optuna()
        optuna.storages.fail_stale_trials(self.study)  # those without heartbeat; a journal has none
        for trial in self.study.get_trials(states=(optuna.trial.TrialState.RUNNING,)):
            if trial.user_attrs.get("locked") == trial.number and FolderLock(self.folder(trial)).is_stale():
                try:
                    self.study._storage.set_trial_state_values(trial._trial_id, state=optuna.trial.TrialState.FAIL)
                except optuna.exceptions.UpdateFinishedTrialError:  # another worker was faster
                    continue
                self.retry(trial, self.space.content["retries"])
        return sum(t.state.name != "WAITING" for t in effective_trials(self.study)) < self.trials

    def retry(self, trial: optuna.trial.FrozenTrial, most: int | None) -> None:
        """Queue a trial again with the same values, at most ``most`` times."""
        require_optuna().storages.RetryHeartbeatStaleTrialCallback(max_retry=most)(self.study, trial)

    def folder(self, trial: Any) -> Path:
        """Folder of a trial; a retry has that of its first attempt."""
        return self.context.root / trial.user_attrs.get("folder", f"trials/{trial.number:04d}")

    def after_trial(self, study: optuna.Study, trial: optuna.trial.FrozenTrial) -> None:
        """Queue a stopped trial again, and stop the study when it has all its trials."""
        if trial.user_attrs.get("stopped") == trial.number:
            self.retry(trial, None)
        elif trial.state.name == "FAIL":
            reason = (trial.user_attrs.get("error") or ["handed to another worker"])[0]
            self.bar.write(f"trial {trial.number}: FAILED, {reason}; the other trials continue")
        if self.stop.is_set() or not self.has_room():
            study.stop()
        finished = sum(t.state.is_finished() for t in effective_trials(study))
        self.bar.update(max(min(finished, self.trials) - self.bar.n, 0))

    def objective(self, trial: optuna.Trial) -> float:
        """Best validation value of a training with the values of a trial."""
        folder, start = self.folder(trial), time.perf_counter()
        trial.set_user_attr("folder", folder.relative_to(self.context.root).as_posix())
        monitor = TrialMonitor(trial, folder, self.space, self.stop, self.bar.set_postfix_str)
        state, error = "complete", []
        variables = self.environments.get()
        try:
            with FolderLock(folder, wait=lambda: not self.stop.is_set()) as lock:
                trial.set_user_attr("locked", trial.number)
                if lock.acquired:
                    self._train(trial, monitor, replace(self.context, environment=variables))
        except RunError as failure:
            state = "fail" if not failure.outcome.stopped else "pruned" if monitor.pruned else "cut off"
            error = [str(failure), *failure.lines]
        except InputError as failure:
            state, error = "fail", str(failure).splitlines()
        finally:
            self.environments.put(variables)
        if monitor.lost:
            self.lost = True
            raise TrialError
        if monitor.problem or (state == "complete" and not lock.acquired):
            state, error = ("fail", [monitor.problem, *error[1:]]) if monitor.problem else ("cut off", [])
        elif state == "complete" and monitor.best is None:
            needs = "needs validation cases, and a val_interval within the epochs"
            state, error = "fail", [f"history.csv has no {self.space.content['metric']}; {needs}"]
        write_record(folder, {**read_record(folder), "state": state})
        facts = {"seconds": round(time.perf_counter() - start, 1), "error": error if state == "fail" else []}
        facts |= {"best_epoch": monitor.best[1]} if monitor.best else {}
        facts |= {"stopped": trial.number} if state == "cut off" else {}
        for key, value in facts.items():
            trial.set_user_attr(key, value)
        if state == "pruned":
            raise require_optuna().TrialPruned
        if state != "complete" or monitor.best is None:
            raise TrialError("\n".join(error))
        return monitor.best[0]

    def _train(self, trial: optuna.Trial, monitor: TrialMonitor, context: SuiteContext) -> None:
        """Train in the trial's folder; a retry resumes, and a training that has ended is not repeated."""
        folder, values = monitor.folder, {p.name: p.suggest(trial) for p in self.space.parameters}
        if not TRAINING.is_done(folder):
            for name in ATTEMPT_FILES if not (folder / "state.pt").is_file() else ():
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
    workers: int = 1,
    gpus: Sequence[int] | None = None,
    device: str | None = None,
) -> str:
    """Search hyper-parameters; the same command again resumes the study, or works on it at the same time.

    Args:
        space: default, or the path of a YAML file.
        out: folder of the results; by default runs/search_SPACE in the current folder.
        dataset_dir: folder with a datalist.json, or such a file; without it the setting's phantoms are generated.
        trials: trials that the study has in the end, pruned and failed ones included; by default as in the space.
        storage: sqlite:///FILE, journal:///FILE.log or postgresql://USER@HOST/NAME; by default OUT/study.db.
        study: name of the study in the storage; by default that of the space.
        setting: small or the path of a YAML file: sizes, and the phantoms.
        workers: trials at once; with GPUS one per GPU.
        gpus: numbers of the GPUs to use.
        device: cpu or cuda:N, for every trial; by default as PyTorch chooses.

    Returns:
        Best trial and files written.
    """
    optuna = require_optuna()
    definition, environments = load_space(space, setting), worker_environments(workers, gpus)
    for kind in ("sampler", "pruner"):  # a wrong name is an error before data are generated
        make_part(kind, definition.content[kind], definition.name)
    total = definition.content["trials"] if trials is None else trials
    if total < 1:
        raise InputError(f"trials={total}: must be at least 1")
    root, shown = results_folder(out, f"search_{definition.name}"), hide_password(storage or "study.db")
    datalist = resolve_datalist(definition.name, definition.phantom, root, dataset_dir)
    try:
        with FolderLock(root, wait=lambda: True):  # one worker alone creates the tables and the study
            opened = open_storage(storage, root, definition.content["retries"])
            data = datalist_hash(datalist, root / "hashes.json")
            shared = open_study(opened, definition, root, study or definition.name, data, shown)
        context = SuiteContext(root, {None: datalist}, {None: data}, options={"device": device} if device else {})
        worker = Worker(shared, definition, context, total, environments)
        worker.run()
        if worker.stop.is_set():
            raise InputError(f"stopped; its trials are queued again, rerun the same command to resume from {root}")
        lines = write_results(shared, definition, root)
    except optuna.exceptions.StorageInternalError as error:
        reason = hide_password(first_line(error))
        raise InputError(f"--storage {shown}: was lost ({reason}); rerun the same command to resume") from None
    if best_trial(shared) is None:
        errors = [t.user_attrs["error"] for t in effective_trials(shared) if t.user_attrs.get("error")]
        lines += [f"  | {line}" for line in (errors[-1] if errors else [])]
        lines.append("no trial completed; fix the cause, or the pruner, and begin another study with --out or --study")
        raise InputError("\n".join(lines))
    return "\n".join(lines)


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

    Returns:
        Best trial and files written.
    """
    optuna = require_optuna()
    definition = load_space(space, setting)
    root, name = results_folder(out, f"search_{definition.name}"), study or definition.name
    if storage is None and not (root / "study.db").is_file():
        raise InputError(f"{root}: holds no study.db; --out and --storage must be those of `search`")
    try:
        loaded = optuna.load_study(study_name=name, storage=open_storage(storage, root))
    except KeyError:
        raise InputError(f"{root}: no study {name!r}; run `python -m scripts.experiments search` first") from None
    return "\n".join(write_results(loaded, definition, root))
