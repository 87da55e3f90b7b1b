# SPDX-License-Identifier: Apache-2.0
"""Merged data sets: recipes, and a hash that depends on the data alone."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import pytest
import yaml
from conftest import BUNDLE
from scripts.core.errors import InputError
from scripts.data.datalist import load_datalist
from scripts.data.vertebra_table import read_vertebra_table
from scripts.simulation.datasets.build import build, read_recipe
from scripts.training.preflight import preflight

RECIPE = {
    "phantom": {"seed": 60, "cases": 3, "regions": ["lumbar"], "spacing": [4.0, 3.0, 3.0], "style": "wide"},
    "render": {"datalist": None, "seed": 1, "healthy": 0.0, "grades": [3]},
    "simulate": {"datalist": None, "seed": 2},
}


@pytest.fixture
def recipe(tmp_path):
    path = tmp_path / "recipe.yaml"
    path.write_text(yaml.safe_dump(RECIPE))
    return path


def test_hash_depends_on_data_alone(recipe, tmp_path):
    first, again = (build(str(recipe), str(tmp_path / name), workers=n) for name, n in (("a", 1), ("b", 2)))
    one, two = (json.loads((tmp_path / name / "build.json").read_text()) for name in ("a", "b"))
    assert one["sha256"] == two["sha256"]
    assert sum(one["cases"].values()) == 3
    assert build(str(recipe), str(tmp_path / "a")) == first != again
    recipe.write_text(yaml.safe_dump(RECIPE | {"phantom": RECIPE["phantom"] | {"seed": 70}}))
    build(str(recipe), str(tmp_path / "c"))
    assert json.loads((tmp_path / "c" / "build.json").read_text())["sha256"] != one["sha256"]


def test_merged_parts_pass_the_data_checks(recipe, phantom_set, tmp_path):
    path = build(str(recipe), str(tmp_path / "all"), masks=str(phantom_set), scans=str(phantom_set), cases=4)
    counts = json.loads((tmp_path / "all" / "build.json").read_text())["cases"]
    assert sum(counts.values()) == 4 + 4 + 4
    sections = {s: load_datalist(path, s) for s in ("training", "validation", "testing")}
    preflight(sections, required=list(sections), source=path, level="full", label_values=[0, 1, 255])
    kinds = {case["image"].split("/")[-3] for cases in sections.values() for case in cases}
    assert kinds == {"phantom", "render", "simulate"}
    training = load_datalist(path, "training")
    assert all(f"/{case['part']}/" in case["image"] for case in training)
    assert {case["part"] for case in load_datalist(path, "training", without=["render"])} == {"phantom", "simulate"}


def test_parts_of_one_kind_have_names_and_the_same_sources(recipe, phantom_set, tmp_path):
    again = {"part": "render", "datalist": None, "seed": 2, "healthy": 0.0, "grades": [3], "cortex": "thick"}
    neck = {"part": "phantom", "seed": 70, "cases": 3, "regions": ["cervical"], "spacing": [4.0, 3.0, 3.0]}
    content = {"phantom": RECIPE["phantom"], "render": RECIPE["render"], "render_thick": again, "neck": neck}
    recipe.write_text(yaml.safe_dump(content))
    path = build(str(recipe), str(tmp_path / "all"), masks=str(phantom_set), cases=4)
    cases = [c for section in ("training", "validation", "testing") for c in load_datalist(path, section)]
    assert Counter(c["part"] for c in cases) == {"phantom": 4, "render": 4, "render_thick": 4, "neck": 3}
    thin, thick = ([c for c in cases if c["part"] == name] for name in ("render", "render_thick"))
    assert {Path(c["image"]).name for c in thin} == {Path(c["image"]).name for c in thick}
    rows = {row["case"].split("/")[0] for row in read_vertebra_table(tmp_path / "all" / "vertebrae.csv")}
    assert rows == {"phantom", "render", "render_thick", "neck"}


def test_a_phantom_in_two_sections_is_refused(recipe, tmp_path):
    """Parts with equal seeds have equal phantoms, and splits of their own."""
    options = {**RECIPE["phantom"], "cases": 8}
    recipe.write_text(yaml.safe_dump({"phantom": options, "other": {**options, "part": "phantom", "seed": 63}}))
    with pytest.raises(InputError, match=r"phantom-00.. of other and phantom is in .*; give parts of one kind seeds"):
        build(str(recipe), str(tmp_path / "out"))
    recipe.write_text(yaml.safe_dump({name: {**options, "part": "phantom"} for name in ("one", "two")}))
    with pytest.raises(InputError, match=r"cases=3: .* has several parts of phantoms, one, two; name one of them phantom"):
        build(str(recipe), str(tmp_path / "out"), cases=3)


@pytest.mark.parametrize(
    ("content", "word"),
    [
        ({"phantoms": {}}, "phantoms"),
        ({"phantom": {"case": 3}}, "case"),
        ({"phantom": 3}, "3"),
        ({"phantom": {"cases": "24"}}, r"phantom: cases='24': must be a whole number"),
        ({"phantom": {"grades": None}}, "phantom: grades=None: must be"),
        ({"render": {"datalist": None}}, "no part has a source; name them with --masks, --scans or --meshes"),
        ({"neck": {"part": "phantoms"}}, r"neck: part='phantoms' is not a part .*; did you mean phantom"),
        ({"neck": {"part": ["phantom"]}}, "is not a part"),
        ({"neck": {"cases": 3}}, "a name of its own needs the option `part`, one of phantom, meshes"),
        ({"../neck": {"part": "phantom"}}, "must be a name of letters, digits and _"),
        ({1: {"part": "phantom"}}, "1: must be a name"),
        ({"phantom": {"part": "render"}}, "phantom: part='render'; choose another name, such as render_2"),
        ([], "no part"),
        ("a: [", "not valid YAML"),
    ],
)
def test_invalid_recipe_is_refused(tmp_path, content, word):
    path = tmp_path / "r.yaml"
    path.write_text(content if isinstance(content, str) else yaml.safe_dump(content))
    with pytest.raises(InputError, match=word) as error:
        build(str(path), str(tmp_path / "out"))
    assert str(path) in str(error.value)
    with pytest.raises(InputError, match="no such file"):
        read_recipe(str(tmp_path / "none.yaml"))


def test_recipe_with_an_option_of_version_0_5(tmp_path, caplog):
    path = tmp_path / "r.yaml"
    path.write_text(yaml.safe_dump({"phantom": {"style": "wide", "drawn": 0.5}}))
    assert read_recipe(str(path)) == {"phantom": {"style": "wide", "collapse_fraction": 0.5}}
    assert "collapse_fraction" in caplog.text


def test_shipped_recipe_is_valid():
    parts = read_recipe(str(BUNDLE / "configs" / "data" / "simulated.yaml"))
    assert list(parts) == ["phantom", "render", "simulate"]


def test_a_failed_case_leaves_the_merged_set_of_the_others(recipe, phantom_set, tmp_path):
    masks = tmp_path / "masks.json"
    content = json.loads((phantom_set / "datalist.json").read_text())
    good = {"vertebrae": str(phantom_set / content["training"][0]["vertebrae"]), "patient": "good"}
    masks.write_text(json.dumps({"training": [good, {"vertebrae": str(tmp_path / "gone.nii.gz"), "patient": "gone"}]}))
    with pytest.raises(InputError, match=r"render: 1 of 2 scans were skipped.*; the merged set of the others is in"):
        build(str(recipe), str(tmp_path / "out"), masks=str(masks))
    kinds = Counter(
        c["part"] for s in ("training", "validation", "testing") for c in load_datalist(str(tmp_path / "out" / "datalist.json"), s)
    )
    assert kinds == {"phantom": 3, "render": 1}
    with pytest.raises(InputError, match="need one datalist; join them with `data merge`"):
        build(str(recipe), str(tmp_path / "other"), scans=["a.json", "b.json"])
