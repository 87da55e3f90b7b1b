# SPDX-License-Identifier: Apache-2.0
"""Ensembles of the folds: mean of the networks of all folds, scored on the test cases, which none of them was trained on."""

from __future__ import annotations

from pathlib import Path

from ...core.folder_lock import FolderLock
from ...core.paths import SUITES
from ...core.provenance import file_hash
from .config import merge_configs, write_config
from .definition import Run, Suite, Variant
from .record import read_record, write_record
from .stages import EVALUATION, TRAINING, RunError, SuiteContext, finish_record, is_finished, run_stage

OVERLAY = SUITES / "ensemble.yaml"
Notes = dict[str, list[str]]  # lines on runs without result: "failed", "elsewhere"


def ensemble_folder(root: Path, variant: str, seed: int) -> Path:
    """Folder of the ensemble of a variant's folds."""
    return root / "members" / f"{variant}_seed{seed}_ensemble"


def evaluate_ensemble(suite: Suite, context: SuiteContext, variant: Variant, seed: int, notes: Notes) -> None:
    """Evaluate the mean of a variant's folds unless they are unfinished or it was evaluated with the same weights."""
    folds = [context.folder(Run(variant, seed, k)) for k in range(suite.folds or 0)]
    if not all(is_finished(f) for f in folds):
        return
    folder = ensemble_folder(context.root, variant.name, seed)
    weights = [str((f / TRAINING.product).resolve()) for f in folds]
    hashes = [file_hash(w) for w in weights]
    if read_record(folder).get("weights_sha256") == hashes and EVALUATION.is_done(folder):
        return
    files = [*suite.configs, *variant.configs, *suite.evaluate, *variant.evaluate, str(OVERLAY)]
    overrides = {**suite.overrides, **variant.overrides, "seed": seed, "save_masks": True, "checkpoints": weights}
    content = merge_configs(files, overrides, f"ensemble of {variant.name}")
    with FolderLock(folder) as lock:
        if not lock.acquired:
            notes["elsewhere"].append(f"{folder.name}: {lock.holder()}")
            return
        write_config(folder / EVALUATION.config, content, f"Evaluation of {folder.name}: all configs merged.")
        facts = {"run": folder.name, "member": variant.name, "label": f"{variant.label}, ensemble", "seed": seed}
        facts |= {"fold": "ensemble", "weights_sha256": hashes, "data_sha256": context.data[None]}
        (folder / EVALUATION.product).unlink(missing_ok=True)  # scores of other weights
        write_record(folder, facts)
        try:
            run_stage(EVALUATION, folder, context)
        except RunError as failure:
            notes["failed"].append(failure.report(folder.name))
        else:
            finish_record(folder)
