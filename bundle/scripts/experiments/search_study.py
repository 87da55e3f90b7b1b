# SPDX-License-Identifier: Apache-2.0
"""A study that several workers share: begun once, counted alike by all, rid of the trials of killed workers."""

from __future__ import annotations

import json
import time
import uuid
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..core.errors import InputError
from ..core.files import write_text
from .claims import Claim
from .search_space import Space
from .search_storage import Opened, Timing, make_pruner, make_sampler, need_optuna

if TYPE_CHECKING:
    import optuna

    FrozenTrial = optuna.trial.FrozenTrial

PATIENCE = 20.0  # seconds for the worker that began the study to write down what it is


def folders_of(root: Path, trial: FrozenTrial) -> list[Path]:
    """Folder of the trial that this one is a new attempt at, and its own."""
    first = trial.system_attrs.get("failed_trial", trial.number)
    return [root / "trials" / f"{n:04d}" for n in dict.fromkeys([first, trial.number])]


def counted(trials: Sequence[FrozenTrial]) -> list[FrozenTrial]:
    """Trials that count: without those that another attempt replaces, and those that were one too many."""
    replaced = {n for t in trials for n in t.system_attrs.get("retry_history", [])}
    return [t for t in trials if t.number not in replaced and not t.user_attrs.get("surplus")]


def is_surplus(trials: Sequence[FrozenTrial], number: int, wanted: int) -> bool:
    """Whether a trial that was just begun is one too many, because another worker began one at the same moment.

    Numbers are given out one by one by the storage, so that of two such trials every worker sees the same one as the last.
    """
    return sum(t.number < number for t in counted(trials)) >= wanted


def _remember(study: optuna.Study, root: Path, facts: Mapping[str, str]) -> None:
    """Write down what a new study is. The facts come last: whoever sees them sees everything."""
    token = str(uuid.uuid4())
    write_text(root / "study.json", json.dumps({"study": study.study_name, "token": token}, indent=2) + "\n")
    study.set_user_attr("token", token)
    study.set_user_attr("facts", dict(facts))


def begin_study(opened: Opened, space: Space, root: Path, name: str, data_sha256: str | None) -> optuna.Study:
    """Create a study, or join it.

    Args:
        opened: storage.
        space: what is searched.
        root: folder of the results.
        name: of the study.
        data_sha256: hash of the data; None to look only.

    Raises:
        InputError: when the study was begun with another space, other data or another folder.
    """
    optuna = need_optuna()
    sampler, pruner = make_sampler(space.sampler, space.name), make_pruner(space.pruner, space.name)
    facts = {**space.facts(), **({"data": data_sha256} if data_sha256 else {})}
    parts = {"storage": opened.storage, "study_name": name, "sampler": sampler, "pruner": pruner}
    try:
        if data_sha256 is None:
            study = optuna.load_study(**parts)
        else:
            old = sorted((root / "trials").glob("*")) if (root / "trials").is_dir() else []
            study = optuna.create_study(**parts, direction=space.direction)
            if old:
                optuna.delete_study(study_name=name, storage=opened.storage)
                raise InputError(
                    f"{root}: holds trials of another study; choose another --out, or the --storage and --study of that one"
                )
            # Only one worker comes here, so that the first trial is queued once.
            study.enqueue_trial(space.first())
            _remember(study, root, facts)
            return study
    except optuna.exceptions.DuplicatedStudyError:
        study = optuna.load_study(**parts)
    except KeyError:
        raise InputError(
            f"{opened.shown}: holds no study {name!r}; run `python -m scripts.experiments search` first"
        ) from None
    limit = time.monotonic() + PATIENCE
    while not study.user_attrs.get("facts"):
        if time.monotonic() > limit:  # whoever began it was killed on the way
            if not study.get_trials(deepcopy=False):
                study.enqueue_trial(space.first())
            _remember(study, root, facts)
        time.sleep(0.2)
    _check(study, opened, root, facts)
    return study


def _check(study: optuna.Study, opened: Opened, root: Path, facts: Mapping[str, str]) -> None:
    known = dict(study.user_attrs["facts"])
    for key, value in facts.items():
        if known.get(key) != value:
            raise InputError(
                f"study {study.study_name} in {opened.shown}: was begun with other {key}; "
                "give those again, or begin another with --out or --study"
            )
    file, token = root / "study.json", study.user_attrs.get("token")
    here = json.loads(file.read_text(encoding="utf-8")).get("token") if file.is_file() else None
    if here != token and (opened.shared or here is not None):
        raise InputError(
            f"{root}: is not the folder that study {study.study_name} in {opened.shown} was begun in; give that one as --out. "
            "Machines that share no folder need a postgresql storage"
        )
    if here is None:
        write_text(file, json.dumps({"study": study.study_name, "token": token}, indent=2) + "\n")


def retry(study: optuna.Study, trial: FrozenTrial, most: int | None) -> None:
    """Queue another attempt at a trial that was cut off, with the same values.

    Args:
        study: of the trial.
        trial: that was cut off.
        most: attempts after the first; None for any number, for a worker that a person stopped.
    """
    need_optuna().storages.RetryHeartbeatStaleTrialCallback(max_retry=most)(study, trial)


class Recovery:
    """Find trials whose worker is gone, fail them and queue them again.

    A database knows when a trial gave its last sign of life. A journal does not; there, and for SQLite, whose workers share the
    folder of results too, the claim on the trial's folder tells: a claim of a dead process, or an old one, is void.

    Args:
        opened: storage.
        study: of the trials.
        root: folder of the results.
        retries: attempts after the first.
        timing: how long to wait.
    """

    def __init__(self, opened: Opened, study: optuna.Study, root: Path, retries: int, timing: Timing) -> None:
        self.opened, self.study, self.root, self.retries, self.timing = opened, study, root, retries, timing
        self._unclaimed: dict[int, float] = {}

    def __call__(self) -> None:
        """Look once."""
        optuna = need_optuna()
        optuna.storages.fail_stale_trials(self.study)  # does nothing for a journal
        if not self.opened.shared:
            return
        states = (optuna.trial.TrialState.RUNNING,)
        for trial in self.study.get_trials(deepcopy=False, states=states):
            if not self._abandoned(trial):
                continue
            try:
                # Only one worker can end a trial; the others are told that it has ended.
                self.opened.storage.set_trial_state_values(trial._trial_id, state=optuna.trial.TrialState.FAIL)
            except optuna.exceptions.UpdateFinishedTrialError:
                continue
            retry(self.study, self.study.get_trials(deepcopy=True)[trial.number], self.retries)

    def _abandoned(self, trial: FrozenTrial) -> bool:
        folders = [f for f in folders_of(self.root, trial) if f.is_dir()]
        if any(Claim(f).holder() is not None for f in folders):
            self._unclaimed.pop(trial.number, None)
            return False
        # Attributes are copied to the next attempt: only a claim that this attempt made tells of its own death.
        if trial.user_attrs.get("claimed") == trial.number and any((f / "claim.json").exists() for f in folders):
            return True
        # Just begun, or on a storage that shows new files late: wait, by the clock of this machine alone.
        since = self._unclaimed.setdefault(trial.number, time.monotonic())
        return time.monotonic() - since > self.timing.unclaimed


def best_of(study: optuna.Study) -> FrozenTrial | None:
    """Best completed trial."""
    try:
        return study.best_trial
    except ValueError:
        return None


def values_by_state(trials: Sequence[Any]) -> dict[str, int]:
    """Number of trials by state."""
    states = [t.state.name for t in trials]
    return {s: states.count(s) for s in ("COMPLETE", "PRUNED", "FAIL", "RUNNING", "WAITING") if s in states}
