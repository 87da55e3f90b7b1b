# SPDX-License-Identifier: Apache-2.0
"""Suites: what is shipped fits together, and every wrong line is named with its remedy."""

from __future__ import annotations

from pathlib import Path

import pytest
from scripts.core.errors import InputError
from scripts.core.paths import SUITES
from scripts.experiments.config import differing, digest, merged, read_config, training_relevant, write_config
from scripts.experiments.member import configs_of
from scripts.experiments.suite import load_suite, read_yaml, runs_of

SHIPPED = ("ablation", "comparison", "folds", "seeds")
MODULES = ("ffm", "sem", "aspp", "rcbam", "rbrab", "lprab")


def write(folder: Path, text: str) -> str:
    path = folder / "own.yaml"
    path.write_text(text)
    return str(path)


@pytest.mark.parametrize("setting", [None, "small", "full"])
@pytest.mark.parametrize("name", SHIPPED)
def test_every_member_of_a_shipped_suite_merges_with_every_setting(name, setting):
    suite = load_suite(name, setting)
    for run in runs_of(suite):
        training, evaluating = configs_of(suite, run)
        assert training["seed"] == run.seed
        assert evaluating["save_masks"] is True
        assert training["epochs"] == evaluating["epochs"]


def test_the_ablation_is_the_paper_s_table_with_one_line_a_member():
    suite = load_suite("ablation")
    assert [m.name for m in suite.members] == ["msffnet", *(f"no_{m}" for m in MODULES)]
    whole, _ = configs_of(suite, runs_of(suite)[0])
    for run in runs_of(suite)[1:7]:
        lines = differing(whole, configs_of(suite, run)[0])
        assert len(lines) == 1
        assert lines[0].startswith(f"network_def::use_{run.member.name.removeprefix('no_')}")
    assert suite.members[0].paper == {"dice": 91.87, "iou": 93.36}


def test_the_comparison_trains_all_networks_alike():
    suite = load_suite("comparison", "small")
    configs = {r.member.name: training_relevant(configs_of(suite, r)[0]) for r in runs_of(suite)[: len(suite.members)]}
    assert {"unet", "unet_plus_plus", "segnet", "fcn", "spinegan", "deeplabv3_plus", "residual_unet"} < set(configs)
    for name, content in configs.items():
        others = [k for k in content if content[k] != configs["msffnet"].get(k) and not k.startswith("network_def::")]
        adversarial = ("train::trainer", "discriminator", "adversarial", "resumed::discriminator")
        assert [k for k in others if not (name == "spinegan" and k.startswith(adversarial))] == [], name


def test_runs_come_seed_by_seed():
    names = [r.name for r in runs_of(load_suite("comparison"))]
    assert names[0] == "msffnet_seed0"
    assert [n.rsplit("seed", 1)[1] for n in names] == sorted(n.rsplit("seed", 1)[1] for n in names)
    assert [r.name for r in runs_of(load_suite("folds"))] == [f"msffnet_seed0_fold{k}" for k in range(5)]


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("members: {}", "names no members"),
        ("memebrs: {a: null}", "no key 'memebrs'; did you mean 'members'"),
        ("members: {a: {config: []}}", "no key 'config'; did you mean 'configs'"),
        ("members: {a: {configs: [configs/network/unett.yaml]}}", "unett.yaml: no such config"),
        ("members: {a: null, a: null}", "'a' is given twice"),
        ("members: {a: null, A: null}", "a and A would share a folder"),
        ("members: {../a: null}", "give a name of letters"),
        ("members: {a: null}\nreference: b", "reference='b' is no member; give one of a"),
        ("members: {a: null}\nseeds: [x]", r"seeds=\['x'\]"),
        ("members: {a: null}\nfolds: 1", "folds=1"),
        ("- a", "must be a mapping of names"),
        ("members: [", "is no valid YAML"),
    ],
)
def test_a_wrong_suite_is_one_line(tmp_path, text, line):
    with pytest.raises(InputError, match=line) as raised:
        load_suite(write(tmp_path, text))
    assert "\n" not in str(raised.value)
    assert "own.yaml" in str(raised.value)


def test_unknown_suites_and_settings_name_the_nearest():
    with pytest.raises(InputError, match="there is no such suite; did you mean ablation"):
        load_suite("ablatoin")
    with pytest.raises(InputError, match="there is no such setting; did you mean small"):
        load_suite("ablation", "smal")
    with pytest.raises(InputError, match="no such suite"):
        load_suite("folder/none.yaml")


@pytest.mark.parametrize(
    ("override", "line"),
    [
        ("epoch: 3", r"member a: --epoch 3: there is no id 'epoch' in train.yaml; did you mean 'epochs'"),
        ("epochs: many", "must be a number"),
        ('"network_def::feature": [4]', "no id 'feature'"),
    ],
)
def test_a_wrong_override_is_found_before_anything_runs(tmp_path, override, line):
    suite = load_suite(write(tmp_path, f"members:\n  a:\n    overrides:\n      {override}\n"))
    with pytest.raises(InputError, match=line):
        configs_of(suite, runs_of(suite)[0])


def test_a_written_config_is_the_one_that_was_merged(tmp_path):
    content = merged(
        [str(SUITES.parent / "train.yaml")], {"epochs": 3, "network_def::features": [4, 4, 4, 4, 4]}, "test"
    )
    write_config(tmp_path / "c.yaml", content, "A comment.")
    assert digest(read_config(tmp_path / "c.yaml")) == digest(content)
    assert (tmp_path / "c.yaml").read_text().startswith("# A comment.\n")


def test_places_decide_nothing_and_values_do():
    files = [str(SUITES.parent / "train.yaml")]
    base = merged(files, {}, "test")
    assert digest(merged(files, {"dataset_dir": "/elsewhere", "num_workers": 0}, "test")) == digest(base)
    assert digest(merged(files, {"learning_rate": 0.01}, "test")) != digest(base)
    assert digest(merged(files, {"init_checkpoint": "other.pt"}, "test")) != digest(base)
    assert differing(base, merged(files, {"learning_rate": 0.01}, "test")) == ["learning_rate: 0.001 and 0.01"]


def test_every_shipped_yaml_is_a_mapping_without_doubled_keys():
    for file in sorted(SUITES.rglob("*.yaml")):
        assert read_yaml(file)
