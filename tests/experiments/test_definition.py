# SPDX-License-Identifier: Apache-2.0
"""Definitions of suites: shipped files fit together, and every wrong line is named with its remedy."""

from __future__ import annotations

from pathlib import Path

import pytest
from scripts.core.config_diff import training_relevant
from scripts.core.errors import InputError
from scripts.core.paths import SUITES
from scripts.experiments.suite.config import config_differences, config_hash, load_config, merge_configs, write_config
from scripts.experiments.suite.definition import load_suite, read_yaml
from scripts.experiments.suite.stages import run_configs

SHIPPED = ("ablation", "comparison", "decoder", "folds", "recipe", "seeds", "shipped")
MODULES = ("ffm", "sem", "aspp", "rcbam", "rbrab", "lprab")


def write(folder: Path, text: str) -> str:
    path = folder / "own.yaml"
    path.write_text(text)
    return str(path)


@pytest.mark.parametrize(("name", "setting"), [(n, s) for n in SHIPPED for s in ("small", "full")] + [("seeds", None)])
def test_shipped_suites_merge_with_every_setting(name, setting):
    suite = load_suite(name, setting, seeds=[0])
    for run in suite.runs():
        training, evaluating = run_configs(suite, run)
        assert training["seed"] == run.seed
        assert evaluating["save_masks"] is True
        assert training["network_def"] == evaluating["network_def"]


def test_values_of_the_training_come_before_a_setting(tmp_path):
    text = "overrides: {epochs: 9, val_interval: 9}\ntraining_overrides: {epochs: 5, patience: 1}\nmembers:\n"
    text += "  a: {overrides: {patience: 2}}\n  b: {training_overrides: {epochs: 3}}\n"
    setting = tmp_path / "setting.yaml"
    setting.write_text("overrides: {epochs: 4}\n")
    expected = {None: [(5, 9, 2), (3, 9, 1)], str(setting): [(4, 9, 2), (3, 9, 1)]}
    for name, values in expected.items():
        suite = load_suite(write(tmp_path, text), name)
        configs = [run_configs(suite, run) for run in suite.runs()]
        assert [tuple(t[k] for k in ("epochs", "val_interval", "patience")) for t, _ in configs] == values
        assert [e["epochs"] for _, e in configs] == [9 if name is None else 4] * 2


def test_the_ablation_changes_one_id_per_member():
    suite = load_suite("ablation")
    assert [m.name for m in suite.variants] == ["msffnet", *(f"no_{m}" for m in MODULES)]
    whole, _ = run_configs(suite, suite.runs()[0])
    for run in suite.runs()[1:7]:
        lines = config_differences(whole, run_configs(suite, run)[0])
        assert len(lines) == 1
        assert lines[0].startswith(f"network_def::use_{run.variant.name.removeprefix('no_')}")
    assert suite.variants[0].paper == {"dice": 91.87, "iou": 93.36}


def test_the_comparison_trains_all_networks_alike():
    suite = load_suite("comparison", "small")
    configs = {r.variant.name: training_relevant(run_configs(suite, r)[0]) for r in suite.runs()[: len(suite.variants)]}
    assert {"unet", "unet_plus_plus", "segnet", "fcn", "spinegan", "deeplabv3_plus", "residual_unet"} < set(configs)
    for name, content in configs.items():
        if name == "nnunet":  # with a recipe of its own
            continue
        others = [k for k in content if content[k] != configs["msffnet"].get(k) and not k.startswith("network_def::")]
        adversarial = ("train::trainer", "discriminator", "adversarial", "stateful_objects::discriminator")
        assert [k for k in others if not (name == "spinegan" and k.startswith(adversarial))] == [], name


@pytest.mark.parametrize("name", ["shipped", "recipe", "decoder"])
def test_the_small_recipe_keeps_schedule_and_randomisation(name):
    alone, small = (load_suite(name, setting, [0]) for setting in (None, "small_recipe"))
    sizes = {"spacing", "patch_size", "steps_per_epoch", "batch_size", "epochs", "val_interval"}
    for before, after in zip(alone.runs()[:3], small.runs()[:3], strict=True):
        old, new = (training_relevant(run_configs(s, r)[0]) for s, r in ((alone, before), (small, after)))
        changed = {k for k in old.keys() | new.keys() if old.get(k) != new.get(k)}
        roots = {k.split("::")[0] for k in changed}
        assert roots - sizes == {"network_def"}, changed


def test_runs_come_seed_by_seed():
    names = [r.name for r in load_suite("comparison").runs()]
    assert names[0] == "msffnet_seed0"
    assert [n.rsplit("seed", 1)[1] for n in names] == sorted(n.rsplit("seed", 1)[1] for n in names)
    assert [r.name for r in load_suite("folds").runs()] == [f"msffnet_seed0_fold{k}" for k in range(5)]


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("members: {}", "names no members"),
        ("memebrs: {a: null}", "no key 'memebrs'; did you mean members"),
        ("members: {a: {config: []}}", "no key 'config'; did you mean configs"),
        ("members: {a: {configs: [configs/network/unett.yaml]}}", "unett.yaml: no such config"),
        ("members: {a: null, a: null}", "Duplicate key: `a`"),
        ("members: {a: null, A: null}", "a and A would share a folder"),
        ("members: {../a: null}", "must be a name of letters"),
        ("members: {a: null}\nreference: b", "reference='b' is no member; must be one of a"),
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
def test_a_wrong_override_is_refused_before_anything_runs(tmp_path, override, line):
    suite = load_suite(write(tmp_path, f"members:\n  a:\n    overrides:\n      {override}\n"))
    with pytest.raises(InputError, match=line):
        run_configs(suite, suite.runs()[0])


def test_a_written_config_equals_the_merged_one(tmp_path):
    content = merge_configs([str(SUITES.parent / "train.yaml")], {"epochs": 3, "network_def::features": [4, 4, 4, 4, 4]}, "test")
    write_config(tmp_path / "c.yaml", content, "A comment.")
    assert config_hash(load_config(tmp_path / "c.yaml")) == config_hash(content)
    assert (tmp_path / "c.yaml").read_text().startswith("# A comment.\n")


def test_only_training_relevant_ids_change_the_hash():
    files = [str(SUITES.parent / "train.yaml")]
    base = merge_configs(files, {}, "test")
    assert config_hash(merge_configs(files, {"dataset_dir": "/elsewhere", "num_workers": 0}, "test")) == config_hash(base)
    assert config_hash(merge_configs(files, {"learning_rate": 0.01}, "test")) != config_hash(base)
    assert config_hash(merge_configs(files, {"init_checkpoint": "other.pt"}, "test")) != config_hash(base)
    assert config_differences(base, merge_configs(files, {"learning_rate": 0.01}, "test")) == ["learning_rate: 0.001 and 0.01"]


def test_shipped_files_have_no_duplicate_keys():
    for file in sorted(SUITES.rglob("*.yaml")):
        assert read_yaml(file)


def test_names_of_version_0_5_are_read(tmp_path):
    file = write(tmp_path, "members: {a: null}\noverrides: {lr_score: 1}\n")
    run = load_suite(file).runs()[0]
    assert run_configs(load_suite(file), run)[0]["lr_metric"] == 1
    (tmp_path / "config.yaml").write_text("ignore_value: 255\nlabel: '@ignore_value'\n")
    content = load_config(tmp_path / "config.yaml")
    assert (content["ignore_index"], content["label"]) == (255, "@ignore_index")
    assert "ignore_value" in load_config(tmp_path / "config.yaml", migrate=False)
