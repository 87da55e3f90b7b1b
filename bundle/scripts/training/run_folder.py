# SPDX-License-Identifier: Apache-2.0
"""Folder of a training, ``runs/NAME`` below the current folder, and the record of its end.

The weights that the bundle ships are never the target of a training. A run that has ended is not started over by the same command.
"""

from __future__ import annotations

import functools
import json
import os
import re
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..core.config_diff import running_config
from ..core.config_overrides import parse_overrides
from ..core.errors import InputError, served
from ..core.files import write_text
from ..core.program import command, quoted
from .checkpoint_files import previous_path
from .run_lock import refuse_running

RUNS = "runs"
MODEL = "model.pt"
STATE, FINISHED_STATE, RECORD = "state.pt", "finished.pt", "finished.json"
NAME = re.compile(r"[A-Za-z0-9_][\w.+=-]*")
LENGTHS = ("epochs", "max_minutes", "patience")  # ids that set the length of a run
FOLDERS = ("ckpt_dir", "output_dir")


@functools.cache
def name_by_time() -> str:
    """Name of a run that has none, the same during the process."""
    base = name = time.strftime("%Y-%m-%d_%H-%M-%S")
    number = 1
    while (Path(RUNS) / name).exists():  # two runs that start in the same second
        number += 1
        name = f"{base}_{number}"
    return name


def run_folders(name: object = None, bundle_root: str = ".", new: bool = True) -> tuple[str, str]:
    """Folders of the weights and of the output of a run: both ``runs/NAME``, relative to the current folder.

    Where a command sets one of ``ckpt_dir`` and ``output_dir`` alone, the other is the same folder. In a process of MONAI Label,
    whose server reads the weights of its copy of the bundle, they are ``models`` and ``eval`` of the bundle.

    Args:
        name: name of the run; by time where it is None.
        bundle_root: folder of the bundle.
        new: whether a run without a name gets one; False for the folders of the bundle.

    Raises:
        InputError: for a name that is no plain name of a folder, or several processes without a name.
    """
    config = running_config()
    given = [config[f] for f in FOLDERS if isinstance(config.get(f), str) and config[f][:1] not in ("$", "@", "%")]
    if name is None and given:
        return given[0], given[0]
    if served() or (name is None and not new):
        return f"{bundle_root}/models", f"{bundle_root}/eval"
    if name is None:
        if int(os.environ.get("WORLD_SIZE", "1")) > 1:
            raise InputError("run_name: several processes need one name; add --run_name NAME, or --ckpt_dir and --output_dir")
        name = name_by_time()
    if not isinstance(name, str):  # 2026_01_05 and 1.10 are read as numbers
        name = parse_overrides(sys.argv[1:]).get("run_name", name) if name == running_config().get("run_name") else name
    if not NAME.fullmatch(str(name)):
        raise InputError(
            f"run_name={name}: must be a name of letters, digits and -_.+=, without folders; --ckpt_dir and --output_dir take paths"
        )
    folder = str(Path(RUNS) / str(name))
    return folder, folder


def resume_hint(weights: str | None = None) -> str:
    """Command that resumes a training: the same, with the name of a run that has been named by time.

    Args:
        weights: file of the weights of the run.
    """
    unnamed = weights is not None and name_by_time.cache_info().currsize and Path(weights).parent == Path(RUNS) / name_by_time()
    return f"rerun the same command{f' with --run_name {name_by_time()}' if unnamed else ''} to resume"


def finish(output_dir: str | Path, line: str, epoch: int, steps: int, lengths: Mapping[str, Any]) -> None:
    """Record the end of a training in ``finished.json``.

    Args:
        output_dir: folder of the run.
        line: reason of the end.
        epoch: last epoch.
        steps: steps of the optimiser.
        lengths: values of ``LENGTHS``.
    """
    record = {"ended": line, "epoch": epoch, "steps": steps, "date": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()), **lengths}
    write_text(Path(output_dir) / RECORD, json.dumps(record, indent=2) + "\n")


def restart(output_dir: str | Path) -> None:
    """Delete the record and the state of a training that has ended."""
    for name in (RECORD, FINISHED_STATE):
        (Path(output_dir) / name).unlink(missing_ok=True)


def check_unfinished(output_dir: str, resume: bool = True, **lengths: float | None) -> None:
    """Refuse to start a training that runs, and to start one over that has ended, unless it is to be longer.

    Args:
        output_dir: folder of the run.
        resume: False starts over.
        lengths: ``epochs``, ``max_minutes`` and ``patience`` of this command.

    Raises:
        InputError: one line with the options that continue it and that start it over.
    """
    folder = Path(output_dir)
    refuse_running(folder)
    state = folder / STATE
    if not resume or served() or state.is_file() or previous_path(state).is_file() or not (folder / RECORD).is_file():
        return
    try:
        record = dict(json.loads((folder / RECORD).read_text(encoding="utf-8")))
    except (OSError, TypeError, ValueError):
        record = {"ended": "its record is damaged"}
    stored = (folder / FINISHED_STATE).is_file()
    if stored and any(_longer(lengths[k], record.get(k)) for k in lengths if k in record):
        return
    option = _limit(record)
    longer = f"--{option} {2 * record[option]:g} continues it" if stored and option else ""
    again = "--resume False starts it over, another --run_name (or --ckpt_dir and --output_dir) begins a new one"
    raise InputError(f"{folder}: {record.get('ended')}; {', '.join(filter(None, [longer, again]))}")


def _limit(record: Mapping[str, Any]) -> str | None:
    """Option that ended a training; None where the record does not show it."""
    epoch, epochs, patience = (record.get(k) for k in ("epoch", "epochs", "patience"))
    if "max_minutes" in str(record.get("ended")) and record.get("max_minutes"):
        return "max_minutes"
    if isinstance(epoch, int) and isinstance(epochs, int) and epoch < epochs and patience:
        return "patience"
    return "epochs" if isinstance(epochs, int) else None


def _longer(now: float | None, before: float | None) -> bool:
    """True for a larger limit; None is no limit."""
    return before is not None and (now is None or now > before)


def next_steps(weights: str | Path) -> list[str]:
    """Lines with the path of the weights and the command that segments with them; empty without weights."""
    file = Path(weights)
    if not file.is_file():
        return []
    line = command(f"segment SCAN --checkpoint {quoted(file)} --out {quoted(file.parent / 'segmented')}")
    return [f"segment a scan: {line}", f"weights: {file}"]
