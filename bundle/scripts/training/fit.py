# SPDX-License-Identifier: Apache-2.0
"""Run a trainer to its end, and say in one line why it ended."""

from __future__ import annotations

import errno
import logging
import re
import signal
import sys
import threading

import torch
from ignite.engine import Engine

from ..core.errors import InputError, refusal, served
from .distributed.processes import is_main
from .sampling import CaseError
from .shutdown import SIGNALS, exit_status

logger = logging.getLogger(__name__)
KILLED = re.compile(
    r"DataLoader worker \(pid\(?s?\)? ?([\d, ]+)\) (?:is killed by signal: (\w[\w ]*)|exited unexpectedly)"
)

ENDS = re.compile(r"(Engine|Current) run is terminating due to exception")


def fit(trainer: Engine, evaluator: Engine | None = None) -> None:
    """Run a trainer; as a target of a config it runs once, however often the config refers to it.

    Args:
        trainer: engine that trains.
        evaluator: engine that validates; it knows the best epoch.

    Raises:
        InputError: one line, for what a person can mend: a case, a worker that was killed, memory, disk, a loss that is no number.
        SystemExit: with the status of the signal that the run was asked to end with.
    """
    before = {name: signal.getsignal(getattr(signal, name)) for name in SIGNALS}
    loggers = [engine.logger for engine in (trainer, evaluator) if engine is not None]
    loggers.append(logging.getLogger("monai.handlers.StatsHandler"))
    for item in loggers:
        item.addFilter(_is_duplicate_log)
    try:
        trainer.run()  # type: ignore[call-arg]  # MONAI's trainer has its data
    except Exception as error:
        line = explain(error)
        if line is None:
            raise
        _fail(line, error)
    finally:
        for item in loggers:
            item.removeFilter(_is_duplicate_log)
        if threading.current_thread() is threading.main_thread():
            for name, handler in before.items():
                if handler is not None:
                    signal.signal(getattr(signal, name), handler)
    failure = getattr(trainer.state, "failure", None)
    if failure:
        _fail(failure)
    stopped = getattr(trainer.state, "stopped_by", None)
    if stopped:
        if is_main():
            logger.warning("%s: %s; the same command goes on", stopped, reason(trainer, evaluator))
        sys.stdout.flush()
        raise SystemExit(exit_status(stopped))
    logger.info("%s", reason(trainer, evaluator))


def _is_duplicate_log(record: logging.LogRecord) -> bool:
    """Whether a record may pass: engines and handlers log an error, its traceback too, that is raised and said once anyway."""
    raised = record.exc_info is not None and record.exc_info[1] is not None and record.msg.startswith("Exception: ")
    return not (raised or ENDS.match(str(record.msg)))


def _fail(line: str, error: BaseException | None = None) -> None:
    if served():
        raise refusal(line) from error
    raise InputError(line) from None


def reason(trainer: Engine, evaluator: Engine | None) -> str:
    """Why a run ended, with the best epoch where there was a validation."""
    epoch, epochs = trainer.state.epoch, trainer.state.max_epochs
    best = ""
    name = getattr(evaluator.state, "key_metric_name", None) if evaluator is not None else None
    if evaluator is not None and name and evaluator.state.best_metric_epoch > 0:
        best = f"; best {name} {float(evaluator.state.best_metric):.4f} in epoch {evaluator.state.best_metric_epoch}"
    if getattr(trainer.state, "stopped_by", None):
        return f"training stopped in epoch {epoch} of {epochs}{best}"
    if epochs is not None and epoch < epochs:
        return f"training ended after epoch {epoch} of {epochs}: validation got no better for as long as `patience` allows{best}"
    return f"training ended after its {epochs} epochs{best}"


def explain(error: BaseException) -> str | None:
    """One line for an error that has its cause outside the program; None for others, whose traceback is wanted."""
    text = str(error)
    if isinstance(error, CaseError):  # from a worker it comes with the traceback of there
        found = re.findall(r"CaseError: (.+)", text)
        line = found[-1] if found else text
        return f"{line}; mend or leave out this case, `python -m scripts.data check` finds others; --num_workers 0 shows where"
    killed = KILLED.search(f"{error.__cause__ or error.__context__ or ''}") or KILLED.search(
        text
    )  # PyTorch chains the signal
    if killed:
        how = f"was ended by the system ({killed[2]})" if killed[2] else "ended without a word"
        return (
            f"a data worker (pid {killed[1].strip()}) {how}, most likely for memory; "
            "lower --cache_rate or --num_workers (0 works everywhere) and run the same command again, it goes on"
        )
    if "shared memory" in text and "DataLoader" in text:
        return "data workers are out of shared memory; give --num_workers 0, or more of it (docker run --shm-size 8g)"
    if isinstance(error, torch.OutOfMemoryError) or "CUDA out of memory" in text:
        return "the GPU is out of memory; lower --batch_size or --patch_size, or give --amp True"
    if isinstance(error, OSError) and error.filename is not None:
        remedy = {
            errno.ENOSPC: "free space there", errno.EDQUOT: "free space there", errno.EFBIG: "the system limits the size of files",
            errno.EACCES: "allow writing there", errno.EROFS: "choose another --output_dir or --ckpt_dir",
        }.get(error.errno or 0, "mend it")  # fmt: skip
        return f"{error.filename}: {error.strerror}; {remedy} and run the same command again, it goes on"
    return None
