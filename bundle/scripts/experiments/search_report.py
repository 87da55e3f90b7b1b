# SPDX-License-Identifier: Apache-2.0
"""Results of a search: the best trial as an overlay, a table of all trials, and Optuna's plots."""

from __future__ import annotations

import json
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import yaml

from ..core.errors import first_line
from ..core.files import atomic_write, write_table, write_text
from .search_space import Space, require_optuna

if TYPE_CHECKING:
    import optuna

PLOTS = {
    "history": "plot_optimization_history", "intermediate": "plot_intermediate_values", "slice": "plot_slice",
    "importance": "plot_param_importances",
}  # fmt: skip


def effective_trials(study: optuna.Study) -> list[optuna.trial.FrozenTrial]:
    """Trials without interrupted attempts that were queued again."""
    history = require_optuna().storages.RetryHeartbeatStaleTrialCallback.retry_history
    trials = study.get_trials(deepcopy=False)
    replaced = {n for t in trials for n in history(t)}
    return [t for t in trials if t.number not in replaced]


def best_trial(study: optuna.Study) -> optuna.trial.FrozenTrial | None:
    """Best completed trial; None before the first."""
    try:
        return study.best_trial
    except ValueError:
        return None


def _row(trial: optuna.trial.FrozenTrial, space: Space) -> dict[str, Any]:
    facts = trial.user_attrs
    errors = facts.get("error") or ["worker was killed" if trial.state.name == "FAIL" else ""]
    row = {"trial": trial.number, "state": trial.state.name.lower(), space.content["metric"]: trial.value}
    row |= {"best_epoch": facts.get("best_epoch"), "epochs": max(trial.intermediate_values, default="")}
    row |= {"seconds": facts.get("seconds"), "folder": facts.get("folder")}
    return row | {p.name: trial.params.get(p.name) for p in space.parameters} | {"error": errors[0]}


def _plot(study: optuna.Study, path: Path) -> str | None:
    """Save one of Optuna's plots; a line with the reason when it cannot be drawn."""
    import matplotlib.pyplot as plt

    plt.switch_backend("Agg")
    try:
        with warnings.catch_warnings(), plt.style.context("default"), atomic_write(path) as temporary:
            warnings.simplefilter("ignore")
            axes = np.ravel(getattr(require_optuna().visualization.matplotlib, PLOTS[path.stem])(study))
            axes[0].figure.set_size_inches(max(4 * len(axes), 7), 4)
            axes[0].figure.savefig(temporary, dpi=110, bbox_inches="tight")
    except (ValueError, RuntimeError, ImportError, IndexError, ZeroDivisionError) as error:
        path.unlink(missing_ok=True)
        return f"{path.name}: could not be drawn ({first_line(error)[:200]})"
    finally:
        plt.close("all")
    return None


def write_results(study: optuna.Study, space: Space, root: Path) -> list[str]:
    """Write best.yaml, trials.csv and the plots; return lines on what was written and on failed trials."""
    best, trials = best_trial(study), effective_trials(study)
    rows = [_row(t, space) for t in trials]
    write_table(root / "trials.csv", rows, list(rows[0]) if rows else ["trial", "state"])
    states = [r["state"] for r in rows]
    counts = ", ".join(f"{states.count(s)} {s}" for s in dict.fromkeys(states))
    lines = [f"{len(rows)} trials of {study.study_name}: {counts}; see {root / 'trials.csv'}"]
    lines += [f"trial {r['trial']} failed: {r['error']}" for r in rows if r["state"] == "fail"]
    if best is None:
        errors = [[], *(t.user_attrs["error"] for t in trials if t.user_attrs.get("error"))]
        lines += [f"  | {line}" for line in errors[-1]]
        lines.append("no trial completed; fix the cause, or the pruner, and begin another study with --out or --study")
    else:
        score = f"trial {best.number}, {space.content['metric']} {best.value:.4f}"
        note = f"The best of {states.count('complete')} completed trials on the same validation cases is an optimistic score; "
        note += "report the test split."
        files = ", ".join(Path(c).name for c in space.configs)
        comments = [f"Overlay of {files}: the best of {len(rows)} trials of the search {study.study_name}."]
        comments += [f"{score} in epoch {best.user_attrs.get('best_epoch', '?')}. {note}", "Fixed values of the search:"]
        comments += [f"  {k}: {json.dumps(v, default=str)}" for k, v in space.overrides.items()] or ["  none"]
        overlay = yaml.safe_dump(space.overlay(best.params), sort_keys=False, allow_unicode=True, width=120)
        write_text(root / "best.yaml", "".join(f"# {c}\n" for c in comments) + overlay)
        lines += [f"best: {score}; overlay {root / 'best.yaml'}", note]
    return lines + [line for line in (_plot(study, root / f"{name}.png") for name in PLOTS) if line]
