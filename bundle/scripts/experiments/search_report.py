# SPDX-License-Identifier: Apache-2.0
"""What a search found: the best config as an overlay, tables and plots."""

from __future__ import annotations

import json
import time
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from ..core.files import atomic_write, write_table, write_text
from .search_space import Space
from .search_study import best_of, counted, values_by_state

if TYPE_CHECKING:
    import optuna

SHOWN = 10  # trials in the table of the report
PLOTS = {
    "history": "plot_optimization_history",
    "intermediate": "plot_intermediate_values",
    "slice": "plot_slice",
    "importance": "plot_param_importances",
}


def write_best(path: Path, study: optuna.Study, space: Space) -> bool:
    """Write the values of the best trial as an overlay; False when no trial has completed."""
    best = best_of(study)
    if best is None:
        return False
    trials = counted(study.get_trials(deepcopy=False))
    done = sum(t.state.name == "COMPLETE" for t in trials)
    ended = best.datetime_complete.strftime("%Y-%m-%d") if best.datetime_complete else "?"
    names = ", ".join(Path(c).name for c in space.configs)
    lines = [
        f"Overlay of {names}: the best of {len(trials)} trials ({done} of them completed) of the search {study.study_name}.",
        f"Trial {best.number}, {space.metric} {best.value:.4f} in epoch {best.user_attrs.get('best_epoch', '?')}, {ended}.",
        "That is the score it was chosen by, and so an optimistic one; evaluate on the test split.",
    ]
    fixed = {k: v for k, v in space.overrides.items() if k not in best.params}
    if fixed:
        lines.append("The search had these values fixed, which are not repeated below:")
        lines += [f"  {key}: {json.dumps(value, default=str)}" for key, value in fixed.items()]
    text = "".join(f"# {line}\n" for line in lines)
    text += yaml.safe_dump(space.values(best.params), sort_keys=False, allow_unicode=True, width=120)
    write_text(path, text)
    return True


def _rows(trials: Sequence[optuna.trial.FrozenTrial], space: Space) -> list[dict[str, Any]]:
    rows = []
    for t in trials:
        history = t.system_attrs.get("retry_history", [])
        error = t.user_attrs.get("error") or []
        row = {
            "trial": t.number,
            "state": t.state.name.lower(),
            space.metric: "" if t.value is None else t.value,
            "best_epoch": t.user_attrs.get("best_epoch", ""),
            "epochs": max(t.intermediate_values, default=""),
            "seconds": t.user_attrs.get("seconds", ""),
            "folder": t.user_attrs.get("folder", ""),
            "attempts_before": " ".join(map(str, history)),
            "error": error[0] if error else "",
        }
        rows.append({**row, **{p.name: t.params.get(p.name, "") for p in space.parameters}})
    return rows


def _plot(study: optuna.Study, out: Path, name: str, done: int) -> str | None:
    """Draw one plot; a line that says why it could not be drawn, or None."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt
    import numpy as np
    from optuna.visualization import matplotlib as drawn

    if name == "importance" and done < 2:
        return f"{name}.png: needs at least 2 completed trials, there are {done}"
    try:
        with warnings.catch_warnings(), plt.style.context("default"):
            warnings.simplefilter("ignore")
            axes = np.atleast_1d(getattr(drawn, PLOTS[name])(study)).ravel()
            figure = axes[0].figure
            if name == "slice":
                figure.set_size_inches(4 * len(axes), 4)
            if name == "intermediate" and axes[0].get_legend() is not None and len(study.trials) > SHOWN:
                axes[0].get_legend().remove()  # it would be longer than the plot
            with atomic_write(out / f"{name}.png") as temporary:
                figure.savefig(temporary, dpi=110, bbox_inches="tight")
            plt.close(figure)
    except (ValueError, RuntimeError, ImportError, IndexError, ZeroDivisionError) as error:
        plt.close("all")
        (out / f"{name}.png").unlink(missing_ok=True)
        return f"{name}.png: could not be drawn ({' '.join(str(error).split())[:200]})"
    return None


def _optimism(space: Space, done: int) -> str:
    word = "largest" if space.direction == "maximize" else "smallest"
    return (
        f"The best {space.metric} is the {word} of {done} completed trials on the same validation cases, each at its best epoch. "
        "It was chosen for being the best, so part of it is luck: it is optimistic, the more so the more trials and the fewer "
        "cases. Train best.yaml with several seeds and report the test split, which the search never saw."
    )


def write_results(study: optuna.Study, space: Space, root: Path, shown: str) -> list[str]:
    """Write best.yaml, trials.csv, report.md and the plots.

    Args:
        study: that is reported.
        space: that it searched.
        root: folder of the results.
        shown: address of the storage without password.

    Returns:
        Lines that say what was found and written.
    """
    every = study.get_trials(deepcopy=False)
    trials = counted(every)
    done = [t for t in trials if t.state.name == "COMPLETE"]
    columns = ["trial", "state", space.metric, "best_epoch", "epochs", "seconds", "folder", "attempts_before"]
    columns += [*(p.name for p in space.parameters), "error"]
    rows = _rows(trials, space)
    write_table(root / "trials.csv", rows, columns)
    has_best = write_best(root / "best.yaml", study, space)
    notes = [n for n in (_plot(study, root, name, len(done)) for name in PLOTS) if n]
    states = ", ".join(f"{n} {s.lower()}" for s, n in values_by_state(trials).items())
    replaced = len(every) - len(trials)
    text = [
        f"# {space.title}",
        "",
        f"Study `{study.study_name}` in `{shown}`, {time.strftime('%Y-%m-%d %H:%M')}: {states}.",
    ]
    if replaced:
        text.append(f"{replaced} attempts were cut off and made again, or were one too many; they are not counted.")
    ranked = sorted(
        (r for r in rows if r["state"] == "complete"),
        key=lambda r: r[space.metric],
        reverse=space.direction == "maximize",
    )
    if ranked:
        shown_columns = ["trial", space.metric, "best_epoch", *(p.name for p in space.parameters)]
        text += ["", "| " + " | ".join(shown_columns) + " |", "|" + " --- |" * len(shown_columns)]
        text += ["| " + " | ".join(_cell(r[c]) for c in shown_columns) + " |" for r in ranked[:SHOWN]]
        text += [
            "",
            f"The best {min(SHOWN, len(ranked))} of {len(ranked)} completed trials; every trial is in trials.csv.",
            "",
        ]
        text += [_optimism(space, len(done))]
    else:
        text += ["", "No trial has completed, so there is no best.yaml."]
    for t in trials:
        if t.state.name == "FAIL":
            error = t.user_attrs.get("error") or [f"its worker was killed, {space.retries} more attempts too"]
            text += [
                "",
                f"Trial {t.number} failed, {', '.join(f'{k} = {_cell(v)}' for k, v in t.params.items())}:",
                "",
                "```text",
                *error,
                "```",
            ]
    text += [
        "",
        *(f"![{n}]({n}.png)" for n in PLOTS if (root / f"{n}.png").is_file()),
        *([""] if notes else []),
        *notes,
    ]
    write_text(root / "report.md", "\n".join(text) + "\n")
    lines = [f"{len(trials)} trials of {study.study_name}: {states}; see {root / 'report.md'}"]
    best = best_of(study)
    if has_best and best is not None:
        lines.append(f"best: trial {best.number}, {space.metric} {best.value:.4f}; overlay {root / 'best.yaml'}")
    return [*lines, *notes]


def _cell(value: object) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)
