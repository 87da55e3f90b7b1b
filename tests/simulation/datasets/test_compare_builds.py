# SPDX-License-Identifier: Apache-2.0
"""Two built sets compared: equal within rounding, and the case that differs by name."""

from __future__ import annotations

import json
import shutil

import pytest
import yaml
from scripts.core.errors import InputError
from scripts.simulation.datasets.build import build
from scripts.simulation.datasets.compare_builds import compare_builds, fingerprint_differences, read_build
from scripts.simulation.datasets.fingerprint import FILE_NAME

RECIPE = {"phantom": {"seed": 60, "cases": 3, "regions": ["lumbar"], "spacing": [4.0, 3.0, 3.0]}}


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    folder = tmp_path_factory.mktemp("built")
    recipe = folder / "recipe.yaml"
    recipe.write_text(yaml.safe_dump(RECIPE))
    build(str(recipe), str(folder / "set"))
    return folder / "set"


@pytest.fixture
def copy(built, tmp_path):
    for name in ("build.json", FILE_NAME):
        shutil.copy(built / name, tmp_path / name)
    return tmp_path


def _change(path, change):
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))


def test_build_writes_hashes_and_one_fingerprint_per_case(built):
    facts, fingerprints = read_build(str(built))
    assert {len(facts[name]) for name in ("settings_sha256", "code_sha256", "sha256")} == {64}
    assert sorted(fingerprints) == [f"phantom/phantom-{n:04d}" for n in (60, 61, 62)]
    assert len((built / FILE_NAME).read_text().splitlines()) == 3 + 2


def test_same_recipe_on_a_machine_that_rounds_otherwise(built, copy, capsys):
    def other_machine(facts):
        facts["sha256"] = "0" * 64
        facts["versions"]["numpy"] = "0.1"
        facts["machine"] = "another"

    def other_rounding(content):
        case = content["cases"]["phantom/phantom-0061"]
        case["mean"] += 0.1
        case["samples"] = [s + (-1) ** i for i, s in enumerate(case["samples"])]
        case["vertebrae"]["22"][0] += 3

    _change(copy / "build.json", other_machine)
    _change(copy / FILE_NAME, other_rounding)
    compare_builds(str(built / "build.json"), str(copy))
    text = capsys.readouterr().out
    lines = dict(line.split(maxsplit=1) for line in text.splitlines())
    assert (lines["settings"], lines["code"], lines["voxels"]) == ("same SHA-256", "same SHA-256", "different SHA-256")
    assert lines["numpy"].endswith(", 0.1 in the second")
    assert lines["machine"].endswith(", another in the second")
    assert lines["cases"] == "3 of 3 are the same within rounding"


def test_the_case_that_differs_is_named(built, copy, capsys):
    def flip(content):
        content["cases"]["phantom/phantom-0061"]["vertebrae"]["22"][0] += 100

    _change(copy / FILE_NAME, flip)
    with pytest.raises(InputError, match=r"1 of 3 cases .* phantom/phantom-0061 \(vertebrae: value 22") as error:
        compare_builds(str(built), str(copy))
    assert "\n" not in str(error.value)
    assert "phantom-0060" not in capsys.readouterr().out


def test_missing_and_moved_cases_are_differences(built):
    fingerprints = read_build(str(built))[1]
    first, *others = sorted(fingerprints)
    fewer = {name: fingerprints[name] for name in others}
    assert fingerprint_differences(fingerprints, fewer) == {first: "is only in the first"}
    assert fingerprint_differences(fewer, fingerprints) == {first: "is only in the second"}
    section = {**fingerprints, first: {**fingerprints[first], "section": "elsewhere"}}
    assert list(fingerprint_differences(fingerprints, section)) == [first]
    without = {**fingerprints, first: {k: v for k, v in fingerprints[first].items() if k != "label"}}
    assert fingerprint_differences(fingerprints, without) == {first: "only one has label"}
    assert not fingerprint_differences(fingerprints, fingerprints)


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("build.json", None, "no such file"),
        ("build.json", "{", "not valid JSON"),
        ("build.json", "[]", "must be a JSON object"),
        ("build.json", '{"sha256": "0"}', "has no settings_sha256"),
        (FILE_NAME, None, "no such file"),
        (FILE_NAME, '{"format": 99, "cases": {}}', "format"),
        (FILE_NAME, '{"format": 1, "cases": {"a": {"section": "training"}}}', "grid of every case"),
    ],
)
def test_unusable_builds_are_refused_in_one_line(built, copy, name, content, words):
    (copy / name).unlink() if content is None else (copy / name).write_text(content)
    with pytest.raises(InputError, match=words) as error:
        compare_builds(str(built), str(copy))
    assert str(copy / name) in str(error.value)
    assert "\n" not in str(error.value)
