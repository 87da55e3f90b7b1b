# SPDX-License-Identifier: Apache-2.0
"""``search``: hyper-parameters by Optuna, every trial a bundle run, on one machine or many."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tqdm import tqdm

from ..core.errors import InputError
from .launch import bundle_command
from .member import Place
from .record import data_hash
from .run import make_data
from .search_report import write_results
from .search_space import Space, load_space
from .search_storage import Timing, make_pruner, make_sampler, need_optuna, open_storage
from .search_study import Recovery, begin_study, best_of, counted, is_surplus, retry
from .search_trial import Trials

if TYPE_CHECKING:
    import optuna


class Bar:
    """One bar over the trials: which is at which epoch, and the best so far.

    Args:
        study: that is shown.
        total: trials.
    """

    def __init__(self, study: optuna.Study, total: int) -> None:
        self.study, self.lock, self._now, self._best = study, threading.Lock(), "", ""
        self.bar = tqdm(total=total, unit="trial", desc=study.study_name)

    def finished(self, number: int) -> None:
        """Set how many trials have finished, those of other workers included."""
        best = best_of(self.study)
        with self.lock:
            self.bar.update(max(min(number, self.bar.total) - self.bar.n, 0))
            self._best = "" if best is None else f", best {best.value:.3f} (trial {best.number})"

    def epoch(self, number: int, epoch: int, epochs: int, value: float) -> None:
        """Show where a trial of this worker is."""
        with self.lock:
            self.bar.set_postfix_str(f"trial {number} epoch {epoch}/{epochs or '?'} {value:.3f}{self._best}")

    def say(self, line: str) -> None:
        """Print a line above the bar."""
        with self.lock:
            self.bar.write(line)


def _work(trials: Trials, wanted: int, recover: Recovery, bar: Bar, wait: bool, exhausted: threading.Event) -> None:
    """Take trials until the study has as many as are wanted."""
    state = need_optuna().trial.TrialState
    while not trials.stop.is_set() and not exhausted.is_set():
        recover()
        now = counted(trials.study.get_trials(deepcopy=False))
        finished = sum(t.state.is_finished() for t in now)
        bar.finished(finished)
        if finished >= wanted:
            return
        if finished + sum(t.state == state.RUNNING for t in now) >= wanted:
            if not wait:
                return
            trials.stop.wait(trials.timing.poll)  # should another worker be killed, its trial is taken up here
            continue
        trial = trials.study.ask()
        if is_surplus(trials.study.get_trials(deepcopy=False), trial.number, wanted):
            trial.set_user_attr("surplus", True)
            trials.study.tell(trial, state=state.FAIL, skip_if_finished=True)
            continue
        trials.run(trial)


def _in_thread(work: Callable[[], None], stop: threading.Event, errors: list[BaseException]) -> threading.Event:
    """Start work in a thread; return what is set when it has ended.

    Nobody joins the thread: a ``join`` that Ctrl-C interrupts takes the thread for ended in some versions of Python (3.11), and
    the process would end before its trial is queued again.
    """
    ended = threading.Event()

    def guarded() -> None:
        try:
            work()
        except BaseException as error:  # in a thread it would be lost; the main thread raises it
            errors.append(error)
            stop.set()
        finally:
            ended.set()

    threading.Thread(target=guarded, daemon=True).start()
    return ended


def _slots(workers: int, gpus: Sequence[int] | None) -> list[dict[str, str]]:
    """Variables of each worker's trainings."""
    if workers < 1:
        raise InputError(f"workers={workers}: give a number of at least 1")
    if gpus:
        return [{"CUDA_VISIBLE_DEVICES": str(g)} for g in gpus]
    threads = {"OMP_NUM_THREADS": str(max((os.cpu_count() or 1) // workers, 1))} if workers > 1 else {}
    return [dict(threads) for _ in range(workers)]


def run_search(
    space: Space,
    root: Path,
    dataset_dir: str | None,
    trials: int | None = None,
    storage: str | None = None,
    study: str | None = None,
    slots: Sequence[dict[str, str]] = ({},),
    device: str | None = None,
    wait: bool = True,
    command: Callable[..., list[str]] = bundle_command,
    timing: Timing | None = None,
) -> list[str]:
    """Work on a study until it has as many trials as are wanted; return lines that say what was found.

    Args:
        space: what is searched.
        root: folder of the results.
        dataset_dir: folder with a datalist.json, or such a file; None makes the setting's phantoms.
        trials: of the whole study; None as the space says.
        storage: address; None for an SQLite file in ``root``.
        study: name of the study; None for that of the space.
        slots: variables of the trainings of each worker in this process.
        device: of the trainings.
        wait: stay until the trials of other workers have ended.
        command: makes the command line of a training.
        timing: seconds between looks.

    Raises:
        InputError: when something given cannot be used, no trial completed, or the work was stopped.
    """
    wanted, timing, root = space.trials if trials is None else trials, timing or Timing(), root.resolve()
    if wanted < 1:
        raise InputError(f"trials={wanted}: give a number of at least 1")
    make_sampler(space.sampler, space.name)  # a wrong name is found before data are made
    make_pruner(space.pruner, space.name)
    root.mkdir(parents=True, exist_ok=True)
    opened = open_storage(storage, root, lambda s, t: retry(s, t, space.retries), timing)
    datalist = make_data(space.suite, root, dataset_dir)
    data = data_hash(datalist, root / "hashes.json")
    made = begin_study(opened, space, root, study or space.name, data)
    stop, errors, bar = threading.Event(), [], Bar(made, wanted)  # type: ignore[var-annotated]
    exhausted = threading.Event()
    made.stop = exhausted.set  # type: ignore[method-assign] # a sampler that has tried everything calls it
    recover = Recovery(opened, made, root, space.retries, timing)
    # Clusters end a job with SIGTERM some time before SIGKILL: time enough to queue the trial again.
    before, running = _on_sigterm(signal.default_int_handler), []
    try:
        for slot in slots:
            place = Place(root, {None: datalist}, {None: data}, slot, {"device": device} if device else {})
            mine = Trials(opened, made, space, place, timing, stop, command, bar.epoch, bar.say)
            work = partial(_work, mine, wanted, recover, bar, wait, exhausted)
            running.append(_in_thread(work, stop, errors))
        for ended in running:
            while not ended.wait(0.2):
                pass
    except KeyboardInterrupt:
        stop.set()
        for ended in running:
            ended.wait(30)
        bar.bar.close()
        if errors:
            _raise(errors[0], opened.shown)
        raise InputError(f"stopped; its trials are queued again, and the same command goes on from {root}") from None
    finally:
        _on_sigterm(before)
        bar.bar.close()
    if errors:
        _raise(errors[0], opened.shown)
    lines = write_results(made, space, root, opened.shown)
    if best_of(made) is None:
        failed = [t for t in made.get_trials(deepcopy=False) if t.user_attrs.get("error")]
        lines += [f"  | {line}" for line in (failed[-1].user_attrs["error"] if failed else [])]
        raise InputError(
            "\n".join(
                [*lines, "no trial completed; mend the cause, or the pruner, and begin another with --out or --study"]
            )
        )
    return lines


def _on_sigterm(handler: Any) -> Any:
    """Set what SIGTERM does and return what it did; in another thread than the main one nothing can be set."""
    if threading.current_thread() is not threading.main_thread():
        return signal.SIG_DFL
    return signal.signal(signal.SIGTERM, handler)


def _raise(error: BaseException, shown: str) -> None:
    if isinstance(error, need_optuna().exceptions.StorageInternalError):
        raise InputError(
            f"--storage {shown}: can no longer be reached; when it is there again the same command takes the trials up"
        ) from None
    raise error


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
    wait: bool = True,
) -> str:
    """Search hyper-parameters; the same command again goes on, or works beside the first.

    Args:
        space: default, or the path of your own YAML file.
        out: folder of the results; by default runs/search_SPACE in the current folder.
        dataset_dir: folder with a datalist.json, or such a file; without it the setting's phantoms are made.
        trials: that the study has in the end, all workers together, pruned and failed ones included; by default as the space says.
        storage: sqlite:///FILE, journal:///FILE.log or postgresql://USER@HOST/NAME; by default OUT/study.db.
        study: name of the study in the storage; by default that of the space.
        setting: small or the path of your own YAML file: sizes, and the phantoms.
        workers: trials at once; with GPUS one for each GPU.
        gpus: numbers of the GPUs to use.
        device: cpu or cuda:N, for every trial; by default as PyTorch chooses.
        wait: stay until the trials of other workers have ended, and take up those of killed ones; False ends when all are begun.

    Returns:
        What was found.
    """
    need_optuna()
    chosen = load_space(space, setting)
    root = Path(out or Path("runs") / f"search_{chosen.name}")
    return "\n".join(run_search(chosen, root, dataset_dir, trials, storage, study, _slots(workers, gpus), device, wait))


def search_report(
    space: str,
    out: str | None = None,
    storage: str | None = None,
    study: str | None = None,
    setting: str | None = None,
) -> str:
    """Write the tables, plots and best.yaml of a search as it stands, while it runs or afterwards.

    Args:
        space: as given to ``search``.
        out: as given to ``search``.
        storage: as given to ``search``.
        study: as given to ``search``.
        setting: as given to ``search``.

    Returns:
        What was found.
    """
    need_optuna()
    chosen = load_space(space, setting)
    root = Path(out or Path("runs") / f"search_{chosen.name}").resolve()
    if storage is None and not (root / "study.db").is_file():
        raise InputError(f"{root}: holds no study.db; give the --out and --storage that `search` was given")
    opened = open_storage(storage, root)
    made = begin_study(opened, chosen, root, study or chosen.name, None)
    return "\n".join(write_results(made, chosen, root, opened.shown))
