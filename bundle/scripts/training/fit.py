# SPDX-License-Identifier: Apache-2.0
"""Run of a trainer, with its end in one line."""

from __future__ import annotations

import errno
import logging
import re
import signal
import sys
import threading
from pathlib import Path

import torch
from ignite.engine import Engine

from ..core.errors import InputError, refusal, served
from ..core.program import command
from .distributed.processes import is_main
from .run_folder import next_steps, resume_hint
from .run_lock import exclusive
from .sampling import CaseError
from .shutdown import SIGNALS, exit_status
from .validation_score import marked_fractions

logger = logging.getLogger(__name__)
DEAD_WORKER = re.compile(r"DataLoader worker \(pid\(?s?\)? ?([\d, ]+)\) (?:is killed by signal: (\w[\w ]*)|exited unexpectedly)")
ENGINE_EXCEPTION = re.compile(r"(Engine|Current) run is terminating due to exception")
OS_REMEDIES = {
    errno.ENOSPC: "free space there", errno.EDQUOT: "free space there", errno.EFBIG: "the system limits the size of files",
    errno.EACCES: "allow writing there", errno.EROFS: "choose another --output_dir or --ckpt_dir",
}  # fmt: skip
EARLY_STOPPING = "ignite.handlers.early_stopping.EarlyStopping"


def fit(trainer: Engine, evaluator: Engine | None = None, weights: str | None = None, output_dir: str | None = None) -> None:
    """Run a trainer. As a target of a config it runs once, however many references the config has.

    Args:
        trainer: engine that trains.
        evaluator: engine that validates and holds the best epoch.
        weights: file that the training writes; it is named in the last lines, with the command that segments with it.
        output_dir: folder of the state and the records of the training.

    Raises:
        InputError: one line, for an error that a user can fix: a case, a killed worker, memory, disk, a non-finite loss, a folder
            that another training writes to.
        SystemExit: with the status of the signal that stopped the run.
    """
    before = {name: signal.getsignal(getattr(signal, name)) for name in SIGNALS}
    loggers = [engine.logger for engine in (trainer, evaluator) if engine is not None]
    loggers += [logging.getLogger(name) for name in ("monai.handlers.StatsHandler", EARLY_STOPPING)]
    for item in loggers:
        item.addFilter(_is_no_duplicate)
    try:
        _run(trainer, evaluator, weights, output_dir)
    finally:
        for item in loggers:
            item.removeFilter(_is_no_duplicate)
        # Last of all, so that a signal cannot end a complete training before its files and its last line.
        if threading.current_thread() is threading.main_thread():
            for name, handler in before.items():
                if handler is not None:
                    signal.signal(getattr(signal, name), handler)


def _run(trainer: Engine, evaluator: Engine | None, weights: str | None, output_dir: str | None) -> None:
    try:
        with exclusive(output_dir, Path(weights).parent if weights is not None else None):
            trainer.run()  # type: ignore[call-arg]  # MONAI's trainer has its data
    except Exception as error:
        line = explain(error, resume_hint(weights))
        if line is None:
            raise
        _fail(line, error)
    failure = getattr(trainer.state, "failure", None)
    if failure:
        _fail(failure)
    stopped = getattr(trainer.state, "stopped_by", None)
    if stopped:
        if is_main():
            logger.warning("%s: %s; %s", stopped, end_of_training(trainer, evaluator), resume_hint(weights))
        sys.stdout.flush()
        raise SystemExit(exit_status(stopped))
    logger.info("%s", end_of_training(trainer, evaluator))
    problem = useless_weights(evaluator)
    if problem:
        logger.warning("%s", problem)
    if weights is not None and is_main() and not served():
        print("\n".join(next_steps(weights)), flush=True)


def _is_no_duplicate(record: logging.LogRecord) -> bool:
    """Filter of log records of engines and handlers.

    They log an exception, with its traceback, that is raised and reported anyway, and begin and end of every run of an engine, of
    which `history.epoch_line` and `end_of_training` are the summary.
    """
    raised = record.exc_info is not None and record.exc_info[1] is not None and record.msg.startswith("Exception: ")
    return record.levelno > logging.INFO and not (raised or ENGINE_EXCEPTION.match(str(record.msg)))


def _fail(line: str, error: BaseException | None = None) -> None:
    if served():
        raise refusal(line) from error
    raise InputError(line) from None


def end_of_training(trainer: Engine, evaluator: Engine | None) -> str:
    """Reason why a run ended, and the best epoch if there was a validation."""
    epoch, epochs = trainer.state.epoch, trainer.state.max_epochs
    best = ""
    name = getattr(evaluator.state, "key_metric_name", None) if evaluator is not None else None
    if evaluator is not None and name and evaluator.state.best_metric_epoch > 0:
        best = f"; best {name} {float(evaluator.state.best_metric):.4f} in epoch {evaluator.state.best_metric_epoch}"
    if getattr(trainer.state, "stopped_by", None):
        return f"training stopped in epoch {epoch} of {epochs}{best}"
    if ended_by := getattr(trainer.state, "ended_by", None):
        return f"training ended in epoch {epoch}: {ended_by}{best}"
    if epochs is not None and epoch < epochs:
        return f"training ended after epoch {epoch} of {epochs}: no improvement in validation within `patience`{best}"
    return f"training ended after its {epochs} epochs{best}"


def useless_weights(evaluator: Engine | None) -> str | None:
    """Line about weights whose best score is 0: they mark nothing, or nothing that is a fracture; None for others."""
    name = getattr(evaluator.state, "key_metric_name", None) if evaluator is not None else None
    if evaluator is None or not name or evaluator.state.best_metric_epoch < 1 or float(evaluator.state.best_metric) > 0:
        return None
    marked = marked_fractions(evaluator.state.metrics)
    what = "MARK NOTHING" if marked in (None, (0.0, 0.0)) else "MARK NO FRACTURE, only places outside of fractures"
    return (
        f"THE WEIGHTS {what}: {name} was 0 in every validation. Do not use them. Train for longer (--epochs, --steps_per_epoch), "
        f"start from the shipped weights (configs/finetune.yaml), and check the labels ({command('data preview')})"
    )


def explain(error: BaseException, resume: str = resume_hint()) -> str | None:
    """One line for an error with a cause outside the program; None for others, whose traceback is raised.

    Args:
        error: exception of a run.
        resume: command that resumes the run.
    """
    text = str(error)
    if isinstance(error, CaseError):  # from a worker it includes the worker's traceback
        lines = re.findall(r"CaseError: (.+)", text)
        line = lines[-1] if lines else text
        return f"{line}; fix or exclude this case, `{command('data check')}` finds others; --num_workers 0 shows where"
    # PyTorch chains the signal.
    dead = DEAD_WORKER.search(f"{error.__cause__ or error.__context__ or ''}") or DEAD_WORKER.search(text)
    if dead:
        how = f"was ended by the system ({dead[2]})" if dead[2] else "ended without an error"
        return (
            f"a data worker (pid {dead[1].strip()}) {how}, most likely for lack of memory; "
            f"lower --cache_rate or --num_workers (0 works everywhere) and {resume}"
        )
    if "shared memory" in text and "DataLoader" in text:
        return "data workers are out of shared memory; set --num_workers 0, or provide more (docker run --shm-size 8g)"
    if isinstance(error, torch.OutOfMemoryError) or "CUDA out of memory" in text:
        return "the GPU is out of memory; lower --batch_size (and --slices_per_volume with it) or --patch_size, or set --amp True"
    if isinstance(error, OSError) and error.filename is not None:
        return f"{error.filename}: {error.strerror}; {OS_REMEDIES.get(error.errno or 0, 'fix it')} and {resume}"
    return None
