# SPDX-License-Identifier: Apache-2.0
"""Names of version 0.5 in configs, tables and arguments: each becomes its new name, with a warning that contains both."""

from __future__ import annotations

import importlib
import inspect
import logging
from pathlib import Path

import pytest
import yaml
from scripts.core import deprecations
from scripts.core.deprecations import (
    ARGUMENTS,
    IDS,
    KEYS,
    OPTIONS,
    SCALES,
    TARGETS,
    migrate_arguments,
    migrate_config,
    migrate_keys,
)
from scripts.core.paths import BUNDLE


@pytest.fixture
def warnings(caplog):
    """Messages logged so far."""
    caplog.set_level(logging.WARNING)
    return lambda: [r.getMessage() for r in caplog.records]


POST = "scripts.postprocessing.findings.PostProcessing"


@pytest.mark.parametrize("old", sorted(set(IDS) - set(SCALES)))
def test_an_old_id_is_renamed_with_one_warning(old, warnings):
    assert migrate_config({old: 3, "seed": 1}, "train.yaml") == {IDS[old]: 3, "seed": 1}
    (line,) = warnings()
    assert line.startswith(f"train.yaml: `{old}` is called `{IDS[old]}` since")


def test_a_current_config_is_unchanged_and_silent(warnings):
    content = {"seed": 1, "net": {"_target_": "scripts.networks.msffnet.MSFFNet", "x": ["@seed", "$@seed + 1", None, 1.5]}}
    assert migrate_config(content) == content
    assert not warnings()


def test_quiet_renames_without_warnings(warnings):
    assert migrate_config({"known": 1}, quiet=True) == {"valid_mask": 1}
    assert not warnings()


@pytest.mark.parametrize("value", [2000, 2000.0, 12.5, 0])
def test_a_number_of_another_unit_is_scaled(value):
    assert migrate_config({"min_volume_mm3": value}) == {"min_volume_ml": pytest.approx(value / 1000)}


@pytest.mark.parametrize("value", [None, True, "text", [1, 2]])
def test_other_values_than_numbers_are_not_scaled(value):
    assert migrate_config({"min_volume_mm3": value}) == {"min_volume_ml": value}


@pytest.mark.parametrize(("value", "volume"), [("$40 * 50", 2.0), ("@size", 3.0), ("$1000 + @size", 4.0)])
def test_an_expression_of_another_unit_is_scaled(value, volume):
    from monai.bundle import ConfigParser

    parser = ConfigParser(migrate_config({"min_volume_mm3": value, "size": 3000}))
    assert parser.get_parsed_content("min_volume_ml") == pytest.approx(volume)


@pytest.mark.parametrize("order", [1, -1])
def test_an_override_by_the_old_id_replaces_the_default(order):
    content = dict([("min_volume_ml", 2.0), ("min_volume_mm3", 5000)][::order])
    assert migrate_config(content) == {"min_volume_ml": 5.0}


def test_dictionaries_of_old_and_new_id_are_merged():
    merged = migrate_config({"valid_mask": {"a": 1, "b": 1}, "known": {"b": 2}})
    assert merged == {"valid_mask": {"a": 1, "b": 2}}


@pytest.mark.parametrize(
    ("key", "new"),
    [
        ("known::keys", "valid_mask::keys"),
        ("known#keys", "valid_mask::keys"),
        ("+resumed", "+stateful_objects"),
        ("+resumed::2", "+stateful_objects::2"),
        ("train::known", "train::known"),
    ],
)
def test_only_the_first_part_of_an_override_is_an_id(key, new):
    assert migrate_config({key: 1}) == {new: 1}


@pytest.mark.parametrize(
    ("expression", "new"),
    [
        ("@known", "@valid_mask"),
        ("@known::keys", "@valid_mask::keys"),
        ("$@known + len(@resumed)", "$@valid_mask + len(@stateful_objects)"),
        ("%known", "%valid_mask"),
        ("$known + @unknown", "$known + @unknown"),
        ("known", "known"),
        ("mail@known", "mail@known"),
        ("$@known_cases", "$@known_cases"),
    ],
)
def test_references_are_renamed_in_expressions_alone(expression, new):
    assert migrate_config({"a": [{"b": expression}]}) == {"a": [{"b": new}]}


def test_a_reference_to_an_id_of_another_unit_keeps_its_name():
    assert migrate_config({"a": "$@min_volume_mm3 / 2"}) == {"a": "$@min_volume_mm3 / 2"}


def test_a_whole_reference_to_another_unit_is_scaled():
    from monai.bundle import ConfigParser

    old = {"min_volume_mm3": 2000.0, "size": "@min_volume_mm3", "post": {"_target_": POST, "min_volume_mm3": "@min_volume_mm3"}}
    parser = ConfigParser(migrate_config(old))
    assert parser.get_parsed_content("size") == pytest.approx(2000)
    assert parser.get_parsed_content("post").min_volume_ml == pytest.approx(2)


@pytest.mark.parametrize("old", sorted(TARGETS))
def test_an_old_target_is_renamed_at_any_depth(old, warnings):
    content = migrate_config({"x": {"handlers": [{"_target_": old, "child": {"_target_": old}}]}})
    handler = content["x"]["handlers"][0]
    assert handler["_target_"] == handler["child"]["_target_"] == TARGETS[old]
    assert warnings() == [w for w in warnings() if old in w and TARGETS[old] in w] != []


@pytest.mark.parametrize(("target", "old"), [(t, o) for t, names in sorted(ARGUMENTS.items()) for o in names])
def test_an_old_argument_is_renamed_for_its_target_alone(target, old, warnings):
    new = ARGUMENTS[target][old]
    scale = SCALES.get(old, 1)
    content = migrate_config({"a": {"_target_": target, old: 4}, "b": {"_target_": "x.Y", old: 4}, "c": {old: 4}})
    assert content == {"a": {"_target_": target, new: 4 * scale}, "b": {"_target_": "x.Y", old: 4}, "c": {old: 4}}
    assert len(warnings()) == 1
    assert migrate_arguments(target, {old: 4, "other": None}) == {new: 4 * scale, "other": None}
    assert f"{target}: `{old}` is called `{new}`" in warnings()[-1]


def test_arguments_of_an_old_target_are_renamed():
    content = migrate_config({"a": {"_target_": "scripts.data.transforms.LeaveOutUnknownd", "ignore_value": 255}})
    assert content == {"a": {"_target_": "scripts.data.transforms.MaskIgnoredd", "ignore_index": 255}}


@pytest.mark.parametrize("old", ["mark_intact", "relabel_intact_vertebrae"])
@pytest.mark.parametrize("name", ["MarkIntactd", "RelabelIntactd"])
def test_second_task_becomes_targets_and_loss_by_output(old, name):
    room = "scripts.training.vertebra_loss"
    before = {
        old: [{"_target_": f"{room}.{name}", "keys": "label", "intact_value": 2}],
        "train": {"steps": f"$@load + @{old} + @resample"},
        "vertebra_loss": {"_target_": f"{room}.VertebraLoss", "loss": "@loss", "weight": 0.5, "intact_value": 2},
    }
    assert migrate_config(before) == {
        "output_targets": [{"_target_": "scripts.training.output_targets.OutputTargetsd", "keys": "label"}],
        "train": {"steps": "$@load + @output_targets + @resample"},
        "vertebra_loss": {"_target_": "scripts.training.output_loss.OutputLoss", "loss": "@loss", "weight": 0.5},
    }


def test_keys_are_renamed_and_a_new_key_is_kept():
    for old, new in KEYS.items():
        assert migrate_keys({old: 1, "case": "a"}) == {new: 1, "case": "a"}
        assert migrate_keys({old: 1, new: 2}) == {old: 1, new: 2}
    assert migrate_keys({}) == {}


def test_the_content_is_not_changed():
    content = {"known": {"_target_": "scripts.data.transforms.KeepWided", "x": ["@known"]}}
    before = yaml.safe_dump(content)
    migrate_config(content)
    assert yaml.safe_dump(content) == before


@pytest.mark.parametrize("table", [IDS, TARGETS, KEYS, OPTIONS], ids=["ids", "targets", "keys", "options"])
def test_tables_are_sorted_and_need_one_pass(table):
    assert list(table) == sorted(table)
    assert not set(table) & set(table.values())


def test_migration_is_idempotent():
    content = {old: 1 for old in IDS} | {"a": {"_target_": next(iter(TARGETS)), "b": "@known"}}
    once = migrate_config(content)
    assert migrate_config(once) == once


@pytest.mark.parametrize("target", sorted({*TARGETS.values(), *ARGUMENTS}))
def test_new_targets_exist_and_have_the_new_arguments(target):
    module, _, name = target.rpartition(".")
    component = getattr(importlib.import_module(module), name)
    parameters = inspect.signature(component).parameters
    assert set(ARGUMENTS.get(target, {}).values()) <= set(parameters)


def test_new_ids_are_ids_of_the_configs():
    ids = {i for file in (BUNDLE / "configs").rglob("*.yaml") for i in yaml.safe_load(Path(file).read_text()) or {}}
    assert set(IDS.values()) <= ids
    assert not set(IDS) & ids


def test_the_running_config_is_renamed_in_place(warnings):
    from monai.bundle import ConfigParser

    parser = ConfigParser({"initialize": ["$import_module()"], "known": [1, 2], "sum": "$sum(@known)"})
    parser.globals["import_module"] = deprecations.migrate_running_config
    parser.get_parsed_content("initialize", eval_expr=True)
    assert parser.config["valid_mask"] == [1, 2]
    parser.parse(True)
    assert parser.get_parsed_content("sum") == 3
    assert any("`known` is called `valid_mask`" in w for w in warnings())
    deprecations.migrate_running_config()  # without a config nothing happens
