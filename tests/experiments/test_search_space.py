# SPDX-License-Identifier: Apache-2.0
"""Search spaces: values in config and study, and every wrong line with its remedy."""

from __future__ import annotations

import sys

import pytest
import torch
from conftest import BUNDLE
from monai.bundle import ConfigParser
from scripts.core.errors import InputError

optuna = pytest.importorskip("optuna")

from scripts.experiments.search import search  # noqa: E402
from scripts.experiments.search_space import load_space, make_part  # noqa: E402
from scripts.experiments.suite.config import merge_configs  # noqa: E402
from search_helpers import RATE, write_space  # noqa: E402


def test_the_first_trial_has_the_values_of_the_configs():
    expected = {"learning_rate": 0.001, "batch_size": 16, "network_def::fusion_channels": 32, "network_def::dropout": 0.0}
    assert load_space("default").first() == {**expected, "loss::loss": "dice_ce"}
    small = load_space("default", "small")
    assert small.first()["learning_rate"] == 0.002
    assert small.first()["network_def::fusion_channels"] == 16
    assert small.phantom["cases"] == 120


def test_choices_may_be_lists_and_dictionaries(tmp_path):
    lists = {"kind": "choice", "values": [[32, 32], [64, 64]]}
    named = {"kind": "choice", "values": {"one": {"_target_": "DiceLoss"}, "two": {"_target_": "DiceCELoss"}}}
    space = load_space(write_space(tmp_path, parameters={"patch_size": lists, "loss::loss": named}))
    content = space.config(space.values({"patch_size": "[64, 64]", "loss::loss": "two"}), "trial")
    assert content["patch_size"] == [64, 64]
    assert content["loss"]["loss"] == {"_target_": "DiceCELoss"}
    assert content["loss"]["ignore_index"] == "@ignore_index"


def test_suggested_values_lie_in_the_space(tmp_path):
    whole = {"kind": "int", "low": 2, "high": 8, "step": 2}
    named = {"kind": "choice", "values": {"small": 4, "large": 8}}
    parameters = {"learning_rate": RATE, "epochs": whole, "batch_size": named}
    space = load_space(write_space(tmp_path, parameters=parameters, fixed={}))
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0))
    drawn = []
    study.optimize(lambda t: drawn.append({p.name: p.suggest(t) for p in space.parameters}) or 0.0, n_trials=20)
    assert {d["epochs"] for d in drawn} == {2, 4, 6, 8}
    assert {d["batch_size"] for d in drawn} == {4, 8}
    assert all(0.001 <= d["learning_rate"] <= 0.1 for d in drawn)
    assert [p.stored(v) for p, v in zip(space.parameters, (0.01, 4, 8), strict=True)] == [0.01, 4, "large"]


@pytest.mark.parametrize(("stride", "gate", "channels"), [(2, 0.1, 16), (4, None, 8), (4, 1.0, 32)])
def test_open_choices_keep_the_size_of_the_image(stride, gate, channels):
    names = {"fusion_stride": stride, "refinement_gate": gate, "fusion_channels": channels}
    space = load_space("open_choices", "small")
    values = space.values({f"network_def::{name}": value for name, value in names.items()})
    network = ConfigParser(space.config(values, "trial")).get_parsed_content("network_def").eval()
    assert network.decoder_in_stride == stride
    assert network(torch.zeros(1, 1, 32, 48)).shape[2:] == (32, 48)


def test_an_overlay_has_fixed_values_that_follow_a_searched_one():
    space = load_space("open_choices", "small")
    overlay = space.overlay({"network_def::fusion_stride": 4, "network_def::fusion_channels": 8})
    assert overlay["network_def::transposed_stride"] == "@network_def::fusion_stride"
    assert "epochs" not in overlay
    content = merge_configs([str(BUNDLE / "configs/train.yaml")], overlay, "overlay")
    network = ConfigParser(content).get_parsed_content("network_def").eval()
    assert network(torch.zeros(1, 1, 32, 48)).shape[2:] == (32, 48)


BAD = {
    "kind": ({"parameters": {"epochs": {"kind": "real"}}}, "kind='real': must be .* kind: float, int, choice"),
    "key": ({"parametres": {}}, "there is no key 'parametres'; did you mean parameters?"),
    "key of another kind": (
        {"parameters": {"epochs": {"kind": "int", "low": 1, "high": 2, "values": [1]}}},
        "there is no key 'values'; ",
    ),
    "id": ({"parameters": {"learning_rat": RATE}}, "there is no id 'learning_rat' in train.yaml; did you mean '?learning_rate'?"),
    "argument of the network": (
        {"parameters": {"network_def::fusion_channel": {"kind": "int", "low": 4, "high": 8}}},
        "no id 'fusion_channel' .* did you mean '?fusion_channels'?",
    ),
    "fixed id": ({"fixed": {"epoch": 3}}, "there is no id 'epoch' in train.yaml; did you mean '?epochs'?"),
    "type": ({"parameters": {"batch_size": {"kind": "choice", "values": [8, "many"]}}}, "batch_size 'many': must be a number"),
    "exchanged range": ({"parameters": {"learning_rate": RATE | {"low": 1}}}, r"learning_rate: .*low=1.*high=0\.1"),
    "number as text": (
        {"parameters": {"learning_rate": RATE | {"low": "1e-4"}}},
        "low='1e-4': must be a number; YAML reads 1e-4 as text, write 1.0e-4",
    ),
    "number absent": ({"parameters": {"learning_rate": {"kind": "float", "low": 1}}}, "high=None: must be a number"),
    "fraction": ({"parameters": {"epochs": {"kind": "int", "low": 1.5, "high": 2}}}, "low=1.5: must be a whole number"),
    "logarithm of zero": ({"parameters": {"learning_rate": RATE | {"low": 0}}}, "learning_rate: .*low=0"),
    "logarithm with step": ({"parameters": {"learning_rate": RATE | {"step": 0.1}}}, "learning_rate: .*step. is not supported"),
    "path": ({"parameters": {"ckpt_dir": {"kind": "choice", "values": ["a"]}}}, "is set by the search itself"),
    "id that is fixed too": ({"fixed": {"learning_rate": 0.1}}, "learning_rate is searched and learning_rate is set as well"),
    "duplicate value": (
        {"parameters": {"batch_size": {"kind": "choice", "values": [8, 16, 8]}}},
        "duplicate 8 in values; leave one out",
    ),
    "parameters": ({"parameters": {}}, "names no parameters"),
    "direction": ({"direction": "up"}, "direction='up': must be maximize or minimize"),
    "trials": ({"trials": 0}, "trials=0: must be a whole number of at least 1"),
    "retries": ({"retries": -1}, "retries=-1: must be a whole number of at least 0"),
    "mapping": ({"sampler": "TPESampler"}, "sampler='TPESampler': must be a mapping"),
    "default": ({"parameters": {"learning_rate": RATE | {"default": 3.0}}}, r"default=3.0 is outside the space"),
}


@pytest.mark.parametrize("case", BAD)
def test_a_wrong_space_is_one_line(tmp_path, case):
    content, message = BAD[case]
    with pytest.raises(InputError, match=message) as caught:
        load_space(write_space(tmp_path, **content))
    assert "\n" not in str(caught.value)
    assert "tiny.yaml" in str(caught.value)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"pruner": {"name": "MedianPrune"}}, "there is no such pruner in Optuna; did you mean MedianPruner?"),
        ({"sampler": {"name": "TPESampler", "sed": 1}}, "sampler TPESampler has no argument sed; did you mean seed?"),
        ({"pruner": {"name": "MedianPruner", "n_startup_trials": -1}}, "pruner MedianPruner: .*=-1"),
    ],
)
def test_a_wrong_pruner_or_sampler_is_one_line(tmp_path, content, message):
    with pytest.raises(InputError, match=message):
        search(write_space(tmp_path, **content), str(tmp_path / "out"), str(tmp_path / "absent"))


def test_pruners_may_wrap_each_other():
    inner = {"name": "MedianPruner", "n_warmup_steps": 2}
    pruner = make_part("pruner", {"name": "PatientPruner", "patience": 3, "wrapped_pruner": inner}, "here")
    assert isinstance(pruner._wrapped_pruner, optuna.pruners.MedianPruner)


def test_an_unknown_space_names_the_nearest():
    with pytest.raises(InputError, match="defaul: there is no such search space; did you mean default"):
        search("defaul")


def test_without_optuna_one_line_names_its_package(monkeypatch):
    monkeypatch.setitem(sys.modules, "optuna", None)
    with pytest.raises(InputError, match=r"package optuna, which is not installed; pip install '\.\[search\]'"):
        search("default")
