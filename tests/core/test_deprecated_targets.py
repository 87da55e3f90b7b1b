# SPDX-License-Identifier: Apache-2.0
"""Targets of configs of version 0.5, and of the recorded runs, resolve to components that take their arguments."""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from pydoc import locate

import pytest
import yaml
from conftest import ROOT
from scripts.core.deprecations import TARGETS, migrate_config

TARGETS_OF_VERSION_0_5 = [
    "scripts.data.cache.cached",
    "scripts.data.checks.preflight",
    "scripts.data.datalist.load_datalist",
    "scripts.data.neighbours.NeighbourInferer",
    "scripts.data.neighbours.TakeNeighboursd",
    "scripts.data.neighbours.steps_apart",
    "scripts.data.on_the_fly.RandSimulatedFractured",
    "scripts.data.transforms.KeepWided",
    "scripts.data.transforms.LeaveOutUnknownd",
    "scripts.data.transforms.SafeSpacingd",
    "scripts.evaluation.cases.CaseTable",
    "scripts.inference.agree.Agreementd",
    "scripts.inference.cohort.Segmenter",
    "scripts.inference.inputs.find_inputs",
    "scripts.inference.inputs.preflight",
    "scripts.inference.inputs.shared_folder",
    "scripts.inference.preview.OverlayWriter",
    "scripts.label.study.ListFindingsd",
    "scripts.label.study.ReadStudyd",
    "scripts.label.study.ScanInferer",
    "scripts.networks.MSFFNet",
    "scripts.networks.baselines.DeepLabV3Plus",
    "scripts.networks.baselines.FCN8s",
    "scripts.networks.baselines.ResidualEncoderUNet",
    "scripts.networks.baselines.SegNet",
    "scripts.networks.baselines.SpineGANDiscriminator",
    "scripts.networks.baselines.SpineGANSegmenter",
    "scripts.networks.baselines.UNetPlusPlus",
    "scripts.networks.ensemble.MeanEnsemble",
    "scripts.training.adversarial.DiscriminatorLoss",
    "scripts.training.adversarial.GeneratorLoss",
    "scripts.training.adversarial.SegmentationStep",
    "scripts.training.augment.DeviceAugmentation",
    "scripts.training.augment.RandSeedd",
    "scripts.training.checkpoint.CheckpointSaver",
    "scripts.training.fit.fit",
    "scripts.training.freeze.only_output",
    "scripts.training.freeze.trainable",
    "scripts.training.history.TrainingHistory",
    "scripts.training.keep.KeepBetter",
    "scripts.training.loss.IgnoringLoss",
    "scripts.training.nonfinite.NonFiniteLoss",
    "scripts.training.parallel.load_share",
    "scripts.training.parallel.preflight",
    "scripts.training.parallel.summary_writer",
    "scripts.training.precision.low_precision",
    "scripts.training.resume.TrainingState",
    "scripts.training.sampling.EpochSampler",
    "scripts.training.sampling.SeededItems",
    "scripts.training.stop.QuietWorker",
    "scripts.training.synchronous.EqualBuffers",
    "scripts.training.synchronous.WholeBatchLoss",
    "scripts.training.synchronous.distributed",
    "scripts.training.tracking.EpochScalars",
    "scripts.training.tracking.RunRecord",
    "scripts.training.tracking.ready",
    "scripts.training.tracking.run_name",
    "scripts.training.vertebra_loss.MarkIntactd",
    "scripts.training.vertebra_loss.VertebraLoss",
    "scripts.training.weights.load_members",
    "scripts.training.weights.load_weights",
]
RECORDS = sorted([*(ROOT / "docs" / "experiments").rglob("*.yaml"), ROOT / "docs" / "model_card" / "config.yaml"])
MONAI_KEYS = {"_target_", "_requires_", "_disabled_", "_desc_", "_mode_"}


def components(node: object) -> Iterator[dict]:
    """All parts of a config with a target of the bundle."""
    if isinstance(node, dict):
        if str(node.get("_target_", "")).startswith("scripts."):
            yield node
        for value in node.values():
            yield from components(value)
    elif isinstance(node, list):
        for value in node:
            yield from components(value)


@pytest.mark.parametrize("target", TARGETS_OF_VERSION_0_5)
def test_target_of_version_0_5_resolves(target):
    assert callable(locate(TARGETS.get(target, target)))


@pytest.mark.parametrize("file", RECORDS, ids=lambda f: f.relative_to(ROOT).as_posix())
def test_arguments_of_recorded_configs_are_accepted(file):
    content = migrate_config(yaml.safe_load(file.read_text()) or {}, quiet=True)
    for component in components(content):
        parameters = inspect.signature(locate(component["_target_"])).parameters
        if not any(p.kind == p.VAR_KEYWORD for p in parameters.values()):
            assert set(component) - MONAI_KEYS <= set(parameters), component["_target_"]
