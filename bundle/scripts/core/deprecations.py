# SPDX-License-Identifier: Apache-2.0
"""Names of version 0.5 that version 0.6 reads with a warning; version 1.0 drops this file.

Four kinds of names were changed: ids of configs, targets in configs, keys of JSON files and columns of tables, and options of
commands. Each table maps the old name to the new one.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Mapping
from typing import Any

from .config_diff import running_parser
from .config_values import value_problem
from .errors import InputError

logger = logging.getLogger(__name__)

# Ids at the top level of a config. An id whose unit changed has a factor in SCALES.
IDS = {
    "agree_mm": "consistency_mm",
    "agree_share": "consistency_fraction",
    "ignore_value": "ignore_index",
    "keep_better": "require_improvement",
    "known": "valid_mask",
    "lr_score": "lr_metric",
    "mark_intact": "output_targets",
    "min_volume_mm3": "min_volume_ml",
    "relabel_intact_vertebrae": "output_targets",
    "resumed": "stateful_objects",
    "slices_per_step": "sw_batch_size",
    "start_weights": "init_weights",
    "state_minutes": "checkpoint_interval_minutes",
}
SCALES = {"min_volume_mm3": 1e-3}

# Targets of components.
TARGETS: dict[str, str] = {
    "scripts.data.cache.cached": "scripts.data.cache.volume_cache.cached_dataset",
    "scripts.data.checks.preflight": "scripts.training.preflight.preflight",
    "scripts.data.neighbours.NeighbourInferer": "scripts.networks.slice_context.SliceContextInferer",
    "scripts.data.neighbours.TakeNeighboursd": "scripts.data.slice_context.SliceContextd",
    "scripts.data.neighbours.steps_apart": "scripts.networks.slice_context.context_step",
    "scripts.data.on_the_fly.RandSimulatedFractured": "scripts.simulation.fracture.transforms.RandSimulatedFractured",
    "scripts.data.transforms.KeepWided": "scripts.postprocessing.transforms.RemoveNarrowComponentsd",
    "scripts.data.transforms.LeaveOutUnknownd": "scripts.data.transforms.MaskIgnoredd",
    "scripts.inference.agree.Agreementd": "scripts.postprocessing.vertebra_consistency.VertebraConsistencyd",
    "scripts.inference.inputs.preflight": "scripts.inference.inputs.check_inputs",
    "scripts.inference.preview.OverlayWriter": "scripts.visualization.overlay_writer.OverlayWriter",
    "scripts.label.study.ListFindingsd": "scripts.inference.study.ListFindingsd",
    "scripts.label.study.ReadStudyd": "scripts.inference.study.ReadStudyd",
    "scripts.label.study.ScanInferer": "scripts.inference.study.ScanInferer",
    "scripts.training.keep.KeepBetter": "scripts.training.initial_checkpoint_guard.InitialCheckpointGuard",
    "scripts.training.loss.IgnoringLoss": "scripts.training.ignore_index_loss.IgnoreIndexLoss",
    "scripts.training.parallel.load_share": "scripts.training.distributed.processes.load_shard",
    "scripts.training.parallel.preflight": "scripts.training.distributed.preflight.preflight",
    "scripts.training.parallel.summary_writer": "scripts.training.distributed.processes.summary_writer",
    "scripts.training.sampling.SeededItems": "scripts.training.sampling.SeededDataset",
    "scripts.training.stop.QuietWorker": "scripts.training.shutdown.IgnoreSignals",
    "scripts.training.synchronous.EqualBuffers": "scripts.training.distributed.synchronous.BroadcastBuffers",
    "scripts.training.synchronous.WholeBatchLoss": "scripts.training.distributed.synchronous.GlobalBatchLoss",
    "scripts.training.synchronous.distributed": "scripts.training.distributed.synchronous.distributed",
    "scripts.training.tracking.EpochScalars": "scripts.training.history.EpochScalars",
    "scripts.training.tracking.RunRecord": "scripts.training.mlflow_run.RunRecord",
    "scripts.training.tracking.ready": "scripts.training.tracking.check_store",
    "scripts.training.vertebra_loss.MarkIntactd": "scripts.training.output_targets.OutputTargetsd",
    "scripts.training.vertebra_loss.RelabelIntactd": "scripts.training.output_targets.OutputTargetsd",
    "scripts.training.vertebra_loss.VertebraLoss": "scripts.training.output_loss.OutputLoss",
    "scripts.training.weights.auxiliary_outputs_of": "scripts.training.checkpoint_shape.auxiliary_outputs_of",  # of version 0.7
}

# Arguments of components, by their new target; of dataclasses too, whose arguments are dictionaries of a component.
ARGUMENTS: dict[str, dict[str, str]] = {
    "scripts.data.transforms.MaskIgnoredd": {"ignore_value": "ignore_index"},
    "scripts.evaluation.cases.CaseTable": {"ignore_value": "ignore_index"},
    "scripts.inference.predict.PatchConfig": {"batch": "sw_batch_size"},
    "scripts.networks.ensemble.MeanEnsemble": {"classes": "num_classes"},
    "scripts.networks.slice_context.context_step": {"dimensions": "spatial_dims"},
    "scripts.postprocessing.findings.PostProcessing": {"min_volume_mm3": "min_volume_ml"},
    "scripts.postprocessing.vertebra_consistency.VertebraConsistencyd": {
        "agree_mm": "consistency_mm",
        "agree_share": "consistency_fraction",
    },
    "scripts.training.adversarial.SegmentationStep": {"ignore_value": "ignore_index"},
    "scripts.training.ignore_index_loss.IgnoreIndexLoss": {"ignore_value": "ignore_index"},
}

# Arguments without effect in this version, by the new target of their component.
DROPPED: dict[str, tuple[str, ...]] = {
    "scripts.training.output_loss.OutputLoss": ("intact_value",),
    "scripts.training.output_targets.OutputTargetsd": ("intact_value",),
    "scripts.training.tracking.check_store": ("asked",),
}

# Keys of JSON files and columns of CSV tables.
KEYS: dict[str, str] = {
    "drawn": "collapse_fraction",
    "first look": "coarse_windows",
    "found": "detected",
    "kept from earlier runs": "reused_cases",
    "made": "created",
    "peak memory (MiB)": "peak_memory_mib",
    "peak of the process": "process_peak",
    "right": "true_positive",
    "second look": "fine_windows",
    "unknown_ml": "ignored_ml",
}

# Options of commands.
OPTIONS: dict[str, str] = {
    "batch": "sw_batch_size",
    "drawn": "collapse_fraction",
    "ignore_value": "ignore_index",
    "only": "members",
    "tolerance": "tolerance_mm",
    "workers": "jobs",  # of `experiments run` and `search`; a command that has this option keeps it
}

REFERENCE = re.compile(r"(?<=[@%])([A-Za-z_]\w*)")


def warn(old: str, new: str, where: str = "") -> None:
    """Log that an old name was used, and the new one."""
    prefix = f"{where}: " if where else ""
    logger.warning("%s`%s` is called `%s` since version 0.6; the old name works until 1.0", prefix, old, new)


def _value(old: str, value: Any) -> Any:
    scale = SCALES.get(old)
    if scale is None or isinstance(value, bool):
        return value
    if isinstance(value, str) and value[:1] in ("@", "$"):
        return f"$({value.removeprefix('$')}) * {scale}"
    return value * scale if isinstance(value, (int, float)) else value


def _migrate(node: Any, used: dict[str, str]) -> Any:
    """Copy of a part of a config with new targets, arguments and references."""
    if isinstance(node, Mapping):
        content = {key: _migrate(value, used) for key, value in node.items()}
        target = content.get("_target_")
        if isinstance(target, str) and target in TARGETS:
            used[target] = content["_target_"] = target = TARGETS[target]
        for old, new in ARGUMENTS.get(target, {}).items() if isinstance(target, str) else ():
            if old in content:
                used[old] = new
                content[new] = _value(old, content.pop(old))
        for old in DROPPED.get(target, ()) if isinstance(target, str) else ():
            content.pop(old, None)
        return content
    if isinstance(node, list):
        return [_migrate(value, used) for value in node]
    if isinstance(node, str) and node[:1] in ("@", "$", "%"):
        if node[1:] in SCALES:
            return f"$@{IDS[node[1:]]} / {SCALES[node[1:]]}"
        # An expression with an id whose unit changed is left to fail by its name.
        return REFERENCE.sub(lambda m: IDS[m[1]] if m[1] in IDS and m[1] not in SCALES else m[1], node)
    return node


def migrate_config(content: Mapping[str, Any], where: str = "", quiet: bool = False) -> dict[str, Any]:
    """Copy of a merged config with the names of this version.

    Args:
        content: merged config, overrides included.
        where: name of the config, for the warning.
        quiet: whether the warning is left out.

    Returns:
        Config in which the value of an old id replaces that of the new id; two dictionaries are merged.
    """
    used: dict[str, str] = {}
    migrated: dict[str, Any] = {}
    late: dict[str, Any] = {}
    for key, value in content.items():
        first, separator, rest = key.lstrip("+").replace("#", "::").partition("::")
        if first in IDS:
            new = IDS[first]
            used[first] = new
            late[f"{'+' if key.startswith('+') else ''}{new}{separator}{rest}"] = _migrate(_value(first, value), used)
        else:
            migrated[key] = _migrate(value, used)
    for key, value in late.items():
        present = migrated.get(key)
        both = isinstance(value, Mapping) and isinstance(present, Mapping)
        migrated[key] = {**present, **value} if both else value  # type: ignore[dict-item]
    if not quiet:
        for old, new in used.items():
            warn(old, new, where)
    return migrated


def migrate_arguments(target: str, arguments: Mapping[str, Any]) -> dict[str, Any]:
    """Copy of the arguments of a class with the names of this version; see ``ARGUMENTS``."""
    used: dict[str, str] = {}
    content = _migrate({"_target_": target, **arguments}, used)
    for old, new in used.items():
        warn(old, new, target)
    del content["_target_"]
    return content


def migrate_keys(content: Mapping[str, Any]) -> dict[str, Any]:
    """Copy of a row or JSON object whose old keys have their new names; a new name that is present is kept."""
    return {KEYS.get(k, k) if KEYS.get(k) not in content else k: v for k, v in content.items()}


def migrate_running_config() -> None:
    """Rename old ids and targets of the config whose resolution called this function, and check the ranges of its values.

    The command line and overlays are merged by MONAI before any code of the bundle runs, so this is the first expression of
    ``initialize``. The parser that resolves it stands further up the stack.
    """
    parser = running_parser()
    if parser is None:
        return
    before = dict(parser.config)  # type: ignore[call-overload]
    after = migrate_config(before)
    if after != before:
        parser.set(after)
    for key, value in after.items():
        if words := value_problem(str(key), value):
            raise InputError(f"{key}={value!r}: {words}")
