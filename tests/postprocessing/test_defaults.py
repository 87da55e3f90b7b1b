# SPDX-License-Identifier: Apache-2.0
"""One set of defaults of the post-processing in the dataclass, the transform, the configs and the command's help."""

from __future__ import annotations

import inspect
import re
from dataclasses import asdict, fields

import pytest
from monai.bundle import ConfigParser
from scripts.core.cli import help_text
from scripts.inference.segment import segment
from scripts.postprocessing.findings import PostProcessing
from scripts.postprocessing.transforms import MarkedProbabilitiesd, PostProcessd

DEFAULTS = {
    "threshold": 0.5,
    "min_volume_ml": 2.0,
    "min_width_mm": 12.0,
    "fill_holes": False,
    "largest": None,
    "consistency_mm": (18.0, 12.0, 3.0),
    "consistency_fraction": 0.4,
    "decision": "vertebra",
    "calibration": (1.0, 0.0),
}


def read(bundle, *files: str) -> ConfigParser:
    parser = ConfigParser()
    parser.read_config([str(bundle / "configs" / name) for name in files])
    return parser


def as_tuple(value: object) -> object:
    return tuple(value) if isinstance(value, list) else value


def test_dataclass_and_transform():
    assert asdict(PostProcessing()) == DEFAULTS
    signature = inspect.signature(PostProcessd).parameters
    assert {name: signature[name].default for name in DEFAULTS} == DEFAULTS
    marked = inspect.signature(MarkedProbabilitiesd).parameters
    assert all(marked[name].default == DEFAULTS[name] for name in marked if name != "keys")


@pytest.mark.parametrize("files", [("train.yaml",), ("train.yaml", "evaluate.yaml"), ("inference.yaml",)], ids=str)
def test_ids_of_configs(bundle, files):
    parser = read(bundle, *files)
    assert {name: as_tuple(parser[name]) for name in DEFAULTS} == DEFAULTS


@pytest.mark.parametrize(
    ("files", "path"),
    [
        (("train.yaml",), "validate::postprocessing::transforms"),
        (("train.yaml", "evaluate.yaml"), "validate::postprocessing::transforms"),
        (("inference.yaml",), "postprocessing::transforms"),
    ],
    ids=["train", "evaluate", "stock inference"],
)
def test_transforms_of_configs_use_every_setting(bundle, files, path):
    parser = read(bundle, *files)
    arguments: dict = {}
    for transform in parser[path]:
        if "postprocessing" in transform["_target_"]:
            arguments |= {k: v for k, v in transform.items() if k in DEFAULTS}
    assert arguments == {name: f"@{name}" for name in DEFAULTS}


@pytest.mark.parametrize("path", ["segmenter::post", "inferer::post"])
def test_components_of_inference_use_every_setting(bundle, path):
    post = read(bundle, "inference.yaml").get_parsed_content(path)
    assert PostProcessing.from_config(post) == PostProcessing()
    assert set(post) == {f.name for f in fields(PostProcessing)}


def test_help_of_the_command_states_the_defaults():
    text = " ".join(help_text(segment, "segment").split())
    assert f"{DEFAULTS['threshold']} by default" in text
    assert f"{DEFAULTS['min_volume_ml']:g} ml by default" in text


def test_arguments_may_be_text_or_have_old_names(caplog):
    assert PostProcessing.from_config({"threshold": "0.4", "min_volume_ml": "1"}) == PostProcessing(0.4, 1.0)
    assert PostProcessing.from_config({"min_volume_mm3": 500.0}) == PostProcessing(min_volume_ml=0.5)
    assert "`min_volume_mm3` is called `min_volume_ml`" in caplog.text
    with pytest.raises(ValueError, match="threshold='much': must be a number"):
        PostProcessing.from_config({"threshold": "much"})


@pytest.mark.parametrize(
    ("name", "value", "words"),
    [
        ("decision", "voxels", "decision='voxels': must be one of vertebra, voxel"),
        ("calibration", [1.0], "must be [slope, intercept]"),
        ("calibration", [-1, 0], "slope above 0"),
        ("calibration", None, "calibration=None"),
        ("calibration", "1", "calibration=1.0"),
    ],
)
def test_decision_and_calibration_out_of_range(name, value, words):
    with pytest.raises(ValueError, match=re.escape(words)):
        PostProcessing.from_config({name: value})
