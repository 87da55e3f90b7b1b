# SPDX-License-Identifier: Apache-2.0
"""Overrides that do not exist or have the wrong type are refused with a hint; right ones pass."""

from __future__ import annotations

import pytest
from scripts.core.config_overrides import check_command_line, override_problems, parse_overrides
from scripts.core.errors import InputError

CONFIG = {
    "epochs": 150,
    "lr": 0.001,
    "name": "a",
    "spacing": [1.0, 1.0],
    "flag": True,
    "device": "$x",
    "train": {"handlers": [{"a": 1}]},
    "loss": {"_target_": "DiceCELoss", "softmax": True},
    "network_def": {"_target_": "scripts.networks.MSFFNet", "spatial_dims": 2},
}


@pytest.mark.parametrize(
    "arguments",
    [
        ["--epochs", "3"],
        ["--epochs=3"],
        ["--lr", "1"],
        ["--spacing", "[1, 2, 3]"],
        ["--flag", "False"],
        ["--device", "cpu"],
        ["--train::handlers::0::a", "2"],
        ["--train#handlers#0#_disabled_", "True"],
        ["--epochs", "$1 + 1"],
        ["--config_file", "a.yaml"],
        ["--network_def::fusion_channels", "8"],
        ["--loss::lambda_ce", "2"],
        ["--config-file", "a.yaml", "-epochs", "3"],
        ["--epochs", "$None"],
    ],
)
def test_right_overrides_pass(arguments):
    assert override_problems(parse_overrides(arguments), CONFIG, "train.yaml") == []


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--epoch", "3"], "did you mean 'epochs'"),
        (["--epochs", "many"], "a number"),
        (["--epochs", "2.5"], "whole number"),
        (["--spacing", "1"], "a list"),
        (["--flag", "7"], "True or False"),
        (["--train::handler", "1"], "did you mean 'handlers'"),
        (["--network_def::fusion_channel", "8"], "did you mean 'fusion_channels'"),
        (["--loss::lambda_dise", "2"], "did you mean 'lambda_dice'"),
        (["-epoch", "3"], "did you mean 'epochs'"),
        (["--train::handlers::-9", "1"], "there is no id '_9'"),
    ],
)
def test_wrong_overrides_are_named_with_a_remedy(arguments, words):
    problems = override_problems(parse_overrides(arguments), CONFIG, "train.yaml")
    assert len(problems) == 1
    assert words in problems[0]


def test_the_shipped_train_config_is_checked(bundle):
    config = str(bundle / "configs" / "train.yaml")
    argv = ["prog", "run", "training", "--config_file", config]
    check_command_line([*argv, "--epochs", "2", "--network_def::features", "[4, 4, 4, 4, 4]"])
    with pytest.raises(InputError, match="epochs"):
        check_command_line([*argv, "--epochss", "2"])


def test_spellings_of_the_command_line_are_those_of_fire():
    words = ["--config-file", "a", "-epochs=5", "--learning-rate", "-3", "--flag", "--last"]
    expected = {"config_file": "a", "epochs": "5", "learning_rate": "-3", "flag": "True", "last": "True"}
    assert parse_overrides(words) == expected


@pytest.mark.parametrize(
    ("value", "remedy"), [("2", "--batch_size 4, or also --slices_per_volume 2"), ("10", "write --batch_size 8,"), ("8", None)]
)
def test_a_batch_that_would_be_rounded_down_is_refused(bundle, value, remedy):
    argv = ["monai", "run", "training", "--config_file", str(bundle / "configs" / "train.yaml"), "--batch_size", value]
    if remedy is None:
        assert check_command_line(argv)["batch_size"] == value
        return
    with pytest.raises(InputError, match="need a multiple of slices_per_volume=4") as error:
        check_command_line(argv)
    assert remedy in str(error.value)


def test_none_is_refused_where_monai_drops_it(bundle):
    argv = ["monai", "run", "training", "--config_file", str(bundle / "configs" / "train.yaml")]
    assert check_command_line([*argv, "--max_minutes", "None", "--patience", "$None"])["patience"] == "$None"
    with pytest.raises(InputError, match=r"--steps_per_epoch None: would be ignored; write --steps_per_epoch '\$None'"):
        check_command_line([*argv, "--steps_per_epoch", "None"])
    assert override_problems({"flag": "None"}, CONFIG, "train.yaml") == []  # of a suite, where it has an effect
