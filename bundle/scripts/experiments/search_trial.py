# SPDX-License-Identifier: Apache-2.0
"""One trial: an ordinary bundle run in its folder, whose validations are reported while it goes on."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..core.errors import InputError
from .child import guarded
from .claims import Claim
from .config import digest, write_config
from .launch import bundle_command, launch, tail
from .member import TRAIN, Place
from .record import environment, read_record, write_record
from .search_course import Course
from .search_space import Space
from .search_storage import Opened, Timing, need_optuna
from .search_study import folders_of, retry

if TYPE_CHECKING:
    import optuna

CUT = ("state.pt", "history.csv", "model.pt")  # what an attempt leaves behind


class TrialFailed(Exception):  # noqa: N818
    """A trial has no value; the message says why."""


@dataclass
class Trials:
    """What the trials of a worker have in common.

    Attributes:
        opened: storage.
        study: of the trials.
        space: what is searched.
        place: folder, datalist and options.
        timing: seconds between looks.
        stop: set when the worker is to end.
        command: makes the command line of a training from run id, config and options.
        progress: called with the number of a trial, its folder and its last epoch and value.
    """

    opened: Opened
    study: optuna.Study
    space: Space
    place: Place
    timing: Timing
    stop: threading.Event
    command: Callable[[str, Path, Mapping[str, object]], list[str]] = bundle_command
    progress: Callable[[int, int, int, float], None] = lambda number, epoch, epochs, value: None
    say: Callable[[str], None] = field(default=lambda line: None)

    def run(self, trial: optuna.Trial) -> None:
        """Run a trial and tell the study how it ended."""
        optuna = need_optuna()
        state = optuna.trial.TrialState
        if hasattr(
            self.opened.storage, "record_heartbeat"
        ):  # at once: a trial that never gave a sign of life is never missed
            self.opened.storage.record_heartbeat(trial._trial_id)
        frozen = self.opened.storage.get_trial(trial._trial_id)
        folders = folders_of(self.place.root, frozen)
        with Claim(folders[0]) as first:
            if first.taken:
                self._claimed(trial, folders[0], state)
                return
        # Whoever lost the trial still works in the folder of the first attempt: begin anew in one of its own.
        with Claim(folders[-1]) as own:
            if own.taken:
                self._claimed(trial, folders[-1], state)
            else:
                trial.set_user_attr("error", [f"{folders[-1]}: is worked in by {own.holder()}"])
                self.study.tell(trial, state=state.FAIL, skip_if_finished=True)

    def _claimed(self, trial: optuna.Trial, folder: Path, state: Any) -> None:
        start = time.perf_counter()
        trial.set_user_attr("folder", folder.relative_to(self.place.root).as_posix())
        trial.set_user_attr("claimed", trial.number)
        course = Course(self, trial, folder)
        try:
            value = self._train(trial, folder, course)
        except need_optuna().exceptions.UpdateFinishedTrialError:
            course.lost, value = True, None
        except TrialFailed as failure:
            lines = str(failure).splitlines()
            self._end(trial, folder, start, state.FAIL, course, error=lines)
            self.say(f"trial {trial.number}: FAILED, {lines[0]}; the others go on")
            return
        if course.lost:
            self.say(
                f"trial {trial.number}: was given to another worker after this one was not heard of; its training was ended"
            )
        elif self.stop.is_set() and value is None and not course.pruned:
            self._end(trial, folder, start, state.FAIL, course, error=["stopped by hand; queued again"])
            retry(self.study, self.opened.storage.get_trial(trial._trial_id), None)
        elif course.pruned:
            self._end(trial, folder, start, state.PRUNED, course)
        else:
            self._end(trial, folder, start, state.COMPLETE, course, value=value)

    def _end(
        self,
        trial: optuna.Trial,
        folder: Path,
        start: float,
        state: Any,
        course: Course,
        value: float | None = None,
        error: Sequence[str] = (),
    ) -> None:
        """Write the record, then tell the study: a worker that is killed between the two finds the record."""
        record = read_record(folder)
        seconds = round(time.perf_counter() - start + float(record.get("seconds", 0.0)), 1)
        record |= {
            "state": state.name.lower(),
            "seconds": seconds,
            "value": value,
            "ended": time.strftime("%Y-%m-%d %H:%M:%S"),
        }
        if error:
            record["error"] = list(error)
            trial.set_user_attr("error", list(error))
        elif trial.user_attrs.get("error"):  # of an earlier attempt
            trial.set_user_attr("error", [])
        write_record(folder, record)
        trial.set_user_attr("seconds", seconds)
        if course.best_epoch is not None:
            trial.set_user_attr("best_epoch", course.best_epoch)
        self.study.tell(trial, value, state=state, skip_if_finished=True)

    def _train(self, trial: optuna.Trial, folder: Path, course: Course) -> float | None:
        """Train and return the best value; None when the training was ended before its time.

        Raises:
            TrialFailed: when it ended badly or gave no value.
        """
        values = self.space.suggest(trial)
        try:
            content = self.space.config(values, f"trial {trial.number}")
        except InputError as error:  # a SystemExit, which would end this thread without a word
            raise TrialFailed(str(error)) from None
        course.epochs = int(content.get("epochs", 0)) if isinstance(content.get("epochs"), int) else 0
        record = read_record(folder)
        same = (folder / TRAIN).is_file() and record.get("config_sha256") == digest(content)
        if not same or not (folder / "state.pt").is_file():
            if same and record.get("state") == "complete" and (folder / "model.pt").is_file():
                course.look(prune=False)
                return course.best
            for name in CUT:
                (folder / name).unlink(missing_ok=True)
            record = {}
        write_config(
            folder / TRAIN, content, f"Trial {trial.number} of {self.space.name}: every config and override, merged."
        )
        record |= {
            **_environment(),
            "trial": trial.number,
            "values": values,
            "config_sha256": digest(content),
            "data_sha256": self.place.data[None],
            "state": "running",
            "started": time.strftime("%Y-%m-%d %H:%M:%S"),
        }
        record.pop("error", None)
        write_record(folder, record)
        datalist = self.place.datalists[None].resolve()
        options = {
            "dataset_dir": datalist.parent,
            "datalist": datalist,
            "ckpt_dir": folder,
            "output_dir": folder,
            "resume": True,
        }
        command = guarded(self.command("training", folder / TRAIN, {**options, **self.place.options}))
        log = folder / "log.txt"
        outcome = launch(command, log, self.place.environment, course.watch, self.timing.watch)
        if outcome.stopped and course.problem is None:
            return None
        if course.problem is None and outcome.code == 0:
            if (folder / "model.pt").is_file():  # should the study be out of reach now, the next attempt need not train
                write_record(folder, {**record, "state": "complete"})
            course.look(prune=False)
        if course.problem is None and outcome.code != 0:
            how = f"signal {-outcome.code}" if outcome.code < 0 else f"exit status {outcome.code}"
            raise TrialFailed("\n".join([f"training: {how}, see {log}", *tail(log)]))
        if course.problem is None and course.best is None and not course.lost:
            course.problem = (
                f"history.csv has no {self.space.metric}; give validation cases, and a val_interval within the epochs"
            )
        if course.problem is not None:
            raise TrialFailed("\n".join([f"{course.problem}, see {log}", *tail(log)]))
        return course.best


@cache
def _environment() -> dict[str, object]:
    """Software and machine, asked once a worker: it starts git and reads every script."""
    return environment()
