# SPDX-License-Identifier: Apache-2.0
"""Values out of range are one line with the id, wherever they come from; the configs of the bundle are in range."""

from __future__ import annotations

import math

import pytest
from conftest import BUNDLE
from monai.bundle import ConfigParser
from scripts.core.config_overrides import override_problems
from scripts.core.config_values import RULES, require_values, value_problem
from scripts.core.errors import InputError
from scripts.core.overlay_file import load_overlay
from scripts.inference.pipeline import Pipeline
from scripts.inference.predict import PatchConfig
from scripts.postprocessing.findings import PostProcessing

NAN, INF = math.nan, math.inf
WRONG = [
    ("sw_batch_size", 0), ("sw_batch_size", 1.5), ("sw_batch_size", NAN), ("batch_size", 0), ("largest", 1.5), ("largest", NAN),
    ("hu_window", [1]), ("hu_window", [NAN, 5]), ("hu_window", ["a", "b"]), ("neighbours", -1), ("outside_hu", NAN),
    ("outside_hu", "air"), ("patch_size", [NAN, 160]),
    ("patch_size", 5), ("patch_size", [10**9, 10**9]), ("spacing", [NAN] * 3), ("spacing", [0.001] * 3), ("spacing", "a"),
    ("overlap", NAN), ("coarse_mm", INF), ("cortex_mm", 11),
    ("cortex_mm", -1), ("min_volume_ml", INF), ("min_volume_ml", NAN), ("threshold", "abc"), ("flips", [0]),
    ("consistency_mm", [NAN] * 3), ("fill_holes", "abc"), ("neighbour_mm", NAN), ("epochs", 10**400), ("threshold", True),
]  # fmt: skip


@pytest.mark.parametrize(("key", "value"), WRONG)
def test_value_out_of_range_is_one_line(key, value):
    assert value_problem(key, value)
    with pytest.raises(ValueError, match=rf"^{key}=.*: must be .*") as caught:
        require_values({key: value})
    assert "\n" not in str(caught.value)
    assert override_problems({key: repr(value)}, {key: "$x"}, "train.yaml")


@pytest.mark.parametrize("value", ["$1 + 1", "@other", "%other", {"_target_": "x"}])
def test_expressions_are_let_through(value):
    assert value_problem("epochs", value) is None
    assert value_problem("no id with a rule", NAN) is None


def test_values_of_the_bundle_are_in_range():
    found = set()
    for file in sorted((BUNDLE / "configs").rglob("*.yaml")):
        content = ConfigParser.load_config_file(str(file))
        for key, value in content.items():
            assert value_problem(key, value) is None, f"{file}: {key}"
            found.add(key)
    assert set(RULES) - found <= {"coarse_threshold", "preview"}


@pytest.mark.parametrize(
    ("component", "arguments"),
    [
        (PatchConfig.from_config, {"size": [1.5, 160]}),
        (PatchConfig.from_config, {"size": 5}),
        (PatchConfig.from_config, {"size": [128, 160], "hu": [1]}),
        (PatchConfig.from_config, {"size": [128, 160], "sw_batch_size": 1.5}),
        (PatchConfig.from_config, {"size": [128, 160], "flips": 5}),
        (PostProcessing.from_config, {"threshold": [0.5]}),
        (PostProcessing.from_config, {"largest": 1.5}),
        (PostProcessing.from_config, {"calibration": "1"}),
    ],
)
def test_components_refuse_in_one_line(component, arguments):
    with pytest.raises(ValueError, match="must be"):
        component(arguments)


def test_pipeline_refuses_sizes_that_are_no_numbers():
    patch = PatchConfig((64, 64))
    for search in ({"spacing": [NAN, 1, 1]}, {"coarse_mm": NAN}, {"cortex_mm": NAN}, {"coarse_threshold": NAN}, {"spacing": 1.5}):
        with pytest.raises(ValueError, match="must be"):
            Pipeline({"sagittal": []}, patch, **search)


def test_whole_numbers_as_floats_become_integers():
    patch = PatchConfig.from_config({"size": [64.0, 64.0], "sw_batch_size": 8.0})
    assert (patch.size, patch.sw_batch_size) == ((64, 64), 8)
    assert isinstance(patch.sw_batch_size, int)
    assert isinstance(PostProcessing.from_config({"largest": "2"}).largest, int)  # as MONAI Label sends it


def test_overlay_with_a_value_out_of_range_names_its_file(tmp_path):
    (tmp_path / "wrong.yaml").write_text("spacing: [.nan, 1, 1]\n")
    with pytest.raises(InputError, match=r"wrong.yaml: spacing: .*must be"):
        load_overlay(tmp_path / "wrong.yaml", {"spacing": [1, 1, 1]})
