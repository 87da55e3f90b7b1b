# SPDX-License-Identifier: Apache-2.0
"""Command ``score``: scores of members that are trained, here or on another machine, without a training."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from ...core.errors import InputError
from ..launch import worker_environments
from .config import write_config
from .definition import load_suite
from .ensemble import Notes
from .needed_programs import installed_members
from .run import add_real, chosen_members, execute_all, make_context, results_folder
from .stages import EVALUATION, REAL, TRAINING, is_finished, run_configs


def score(
    suite: str,
    out: str | None = None,
    dataset_dir: str | None = None,
    setting: str | None = None,
    members: Sequence[str] | str | None = None,
    seeds: Sequence[int] | int | None = None,
    jobs: int = 1,
    device: str | None = None,
    real_datalist: str | None = None,
) -> str:
    """Score the trained members of a suite that have no scores yet, and further scans apart.

    Trainings that were made by time, or on another machine, need none of their options here.

    Args:
        suite: as for `run`.
        out: as for `run`.
        dataset_dir: as for `run`; by default the copy that `pack` made.
        setting: as for `run`.
        members: as for `run`.
        seeds: as for `run`.
        jobs: members at once.
        device: PyTorch's name, cpu or cuda:N.
        real_datalist: datalist of further scans, whose section testing is scored apart.
    """
    definition = load_suite(suite, setting, [seeds] if isinstance(seeds, int) else seeds)
    root = results_folder(out, definition.name)
    runs = definition.runs(installed_members(definition, chosen_members(definition, members), named=members is not None))
    folders = {run.name: root / "members" / run.name for run in runs}
    ready = [run for run in runs if TRAINING.is_done(folders[run.name])]
    if not ready:
        raise InputError(f"{root}: holds no trained member of {definition.name}; start with `run`, or with `unpack`")
    environments = worker_environments(jobs, None)
    context = add_real(make_context(definition, root, dataset_dir, device), real_datalist)
    for run in ready:
        path: Path = folders[run.name] / EVALUATION.config
        if not path.is_file():
            write_config(path, run_configs(definition, run)[1], f"Evaluation of {run.name}: every config and override, merged.")
    notes: Notes = {"failed": [], "elsewhere": []}
    if not execute_all(ready, replace(context, stages=(EVALUATION, REAL)), environments, notes):
        raise InputError(f"stopped; rerun the same command to resume from {root}")
    done = sum(is_finished(folders[run.name]) for run in ready)
    lines = [f"{done} of {len(ready)} trained members of {definition.name} are scored in {root}"]
    untrained = [run.name for run in runs if run not in ready]
    lines += [f"not trained: {', '.join(untrained)}"] if untrained else []
    lines += [f"running elsewhere: {line}" for line in notes["elsewhere"]]
    if notes["failed"]:
        raise InputError("\n".join([*lines, f"{len(notes['failed'])} failed; rerun the same command:", *notes["failed"]]))
    return "\n".join(lines)
