# SPDX-License-Identifier: Apache-2.0
"""The mean of the networks of all folds, scored on the test cases, which none of them saw."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from ..core.paths import SUITES
from ..core.provenance import file_hash
from .child import guarded
from .claims import Claim
from .config import merged, write_config
from .launch import bundle_command, launch
from .member import EVALUATE, Place, RunError, finished
from .record import environment, read_record, write_record
from .suite import Run, Suite

OVERLAY = SUITES / "ensemble.yaml"


def ensemble_folder(root: Path, member: str, seed: int) -> Path:
    """Folder of the ensemble of a member's folds."""
    return root / "members" / f"{member}_seed{seed}_ensemble"


def finish_ensembles(suite: Suite, place: Place, names: Sequence[str], notes: dict[str, list[str]]) -> None:
    """Evaluate the ensemble of every member whose folds are all trained.

    Args:
        suite: with folds.
        place: where it runs.
        names: members.
        notes: "failed" and "elsewhere" grow by a line for what could not be done.
    """
    for member in suite.members:
        for seed in suite.seeds if member.name in names else ():
            folds = [Run(member, seed, k) for k in range(suite.folds or 0)]
            if not all(finished(place.folder(r)) for r in folds):
                continue
            folder = ensemble_folder(place.root, member.name, seed)
            weights = [str((place.folder(r) / "model.pt").resolve()) for r in folds]
            made_of = [file_hash(w) for w in weights]
            if read_record(folder).get("weights_sha256") == made_of and (folder / "evaluation" / "cases.csv").is_file():
                continue
            files = [*suite.configs, *member.configs, *suite.evaluate, str(OVERLAY)]
            overrides = {
                **suite.overrides,
                **member.overrides,
                "seed": seed,
                "save_masks": True,
                "checkpoints": weights,
            }
            datalist = place.datalists[None].resolve()
            with Claim(folder) as claim:
                if not claim.taken:
                    notes["elsewhere"].append(f"{folder.name}: {claim.holder()}")
                    continue
                content = merged(files, overrides, f"ensemble of {member.name}")
                write_config(
                    folder / EVALUATE, content, f"Evaluation of {folder.name}: every config and override, merged."
                )
                options: dict[str, object] = {"dataset_dir": datalist.parent, "datalist": datalist, "ckpt_dir": folder}
                options |= {"output_dir": folder / "evaluation", **place.options}
                log = folder / "log.txt"
                outcome = launch(
                    guarded(bundle_command("evaluating", folder / EVALUATE, options)), log, place.environment
                )
                record = {
                    **environment(),
                    "run": folder.name,
                    "member": member.name,
                    "label": f"{member.label}, ensemble",
                }
                record |= {"seed": seed, "fold": "ensemble", "weights_sha256": made_of, "data_sha256": place.data[None]}
                record["stages"] = {"evaluation": {"seconds": round(outcome.seconds, 1), "peak_mib": outcome.peak_mib}}
                good = outcome.code == 0 and (folder / "evaluation" / "cases.csv").is_file()
                record["state"] = "finished" if good else "failed"
                if not good:
                    failure = RunError("evaluation", outcome, log)
                    record["error"] = [str(failure), *failure.lines]
                    notes["failed"].append(
                        "\n".join([f"{folder.name}: {failure}", *(f"  | {x}" for x in failure.lines)])
                    )
                write_record(folder, record)
