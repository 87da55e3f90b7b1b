# SPDX-License-Identifier: Apache-2.0
"""Weights describe their network and input; configs take both from them, and refuse what contradicts the network."""

from __future__ import annotations

import dataclasses
import json
import logging
from pathlib import Path

import pytest
import torch
from conftest import BUNDLE
from ignite.engine import Engine
from monai.bundle import ConfigParser, ckpt_export
from monai.handlers import CheckpointLoader
from scripts.core.errors import InputError
from scripts.inference.config import read_config
from scripts.inference.export import export
from scripts.networks.weights_description import WeightsDescription, description_of, with_description
from scripts.training.describe_run import describe_config
from scripts.training.describe_weights import training_config
from scripts.training.described_config import DescribedConfig, common_description, read_base
from scripts.training.weights import load_weights

SMALL = {"network_def::features": [4, 4, 8, 8, 8], "device": "cpu"}


def weights(folder: Path, overlays: list[str], name: str = "model.pt", **values: object) -> Path:
    """File of untrained, described weights of a training with these overlays."""
    content = training_config(overlays, {**(SMALL if not any("network/" in o for o in overlays) else {}), **values})
    network = ConfigParser(dict(content)).get_parsed_content("network_def")
    torch.save(with_description(network.state_dict(), describe_config(content).text()), folder / name)
    return folder / name


def loads(parser: ConfigParser) -> torch.nn.Module:
    """Network of a config with the weights of its checkpoint."""
    return load_weights(parser.get_parsed_content("network_def"), str(parser.get_parsed_content("checkpoint")), exact=True)


TRAININGS = {
    "slices": (["demo.yaml"], {}),
    "neighbours": (["spatial_25d.yaml"], {"spacing": [2.0, 1.0, 1.0]}),
    "instances": (["vertebrae.yaml"], {"neighbour_mm": 4.5, "outside_hu": 40.0}),
    "volumes": (["spatial_3d/train.yaml"], {"patch_size": [16, 32, 32]}),
    "images": (["images_2d.yaml"], {}),
    "axial": (["plane/axial.yaml", "spatial_25d.yaml"], {"spacing": [3.0, 1.0, 2.0]}),  # S, R, A
    "unet": (["network/unet.yaml"], {"hu_window": [-100.0, 900.0]}),
    "fcn": (["network/fcn.yaml", "spatial_25d.yaml"], {"network_def::features": [4, 4, 4, 4, 4]}),
    "unet_plus_plus": (["network/unet_plus_plus.yaml"], {"network_def::features": [4, 4, 4, 4, 4]}),
    "ablation": (["ablation/no_aspp.yaml"], {}),
    "wide": (["network/wide_decoder.yaml", "vertebrae.yaml"], {}),
}


@pytest.mark.parametrize("training", TRAININGS)
def test_inference_needs_the_path_of_the_weights_alone(tmp_path, training):
    overlays, values = TRAININGS[training]
    file = weights(tmp_path, overlays, **values)
    trained = ConfigParser(training_config(overlays, {**SMALL, **values}))
    parser = read_config(None, {"checkpoint": str(file), "device": "cpu"})
    names = ("spacing", "hu_window", "outside_hu", "patch_size", "neighbours", "neighbour_mm", "check_hu", "min_volume_ml")
    if training == "axial":  # a scan is resampled along R, A, S
        assert parser.get_parsed_content("spacing") == [1.0, 2.0, 3.0]
        assert parser.get_parsed_content("neighbour_step") == trained.get_parsed_content("neighbour_step")
        names = names[1:]
    for name in names:
        assert parser.get_parsed_content(name) == trained.get_parsed_content(name), name
    loads(parser)
    segmenter = parser.get_parsed_content("segmenter")
    assert list(segmenter.checkpoints) == {"volumes": ["volume"], "axial": ["axial"]}.get(training, ["sagittal"])
    assert segmenter.patch.outside == parser.get_parsed_content("outside_value")
    assert segmenter.patch.outside == pytest.approx(0.2 if training == "instances" else 0.0)
    if training == "volumes":
        assert parser["blend"] == "gaussian"


@pytest.mark.parametrize(("outside_hu", "value"), [(-1024.0, 0.0), (40.0, 0.2), (3000.0, 1.0)])
def test_scaled_value_outside_is_that_of_the_windows(tmp_path, outside_hu, value):
    file = weights(tmp_path, ["vertebrae.yaml"])
    parser = read_config(None, {"checkpoint": str(file), "outside_hu": outside_hu, "device": "cpu"})
    assert parser.get_parsed_content("outside_value") == pytest.approx(value)
    assert parser.get_parsed_content("segmenter").patch.outside == pytest.approx(value)
    trained = ConfigParser(training_config([], {"outside_hu": outside_hu}))
    assert trained.get_parsed_content("outside_value") == pytest.approx(value)


def test_outside_of_older_weights_is_the_end_of_their_window(tmp_path):
    file = weights(tmp_path, ["vertebrae.yaml"], hu_window=[-150.0, 900.0], outside_hu=0.0)
    state = torch.load(file, weights_only=True)
    content = json.loads(state.description)
    assert content.pop("outside_hu") == 0.0
    torch.save(with_description(state, json.dumps(content)), file)
    assert read_config(None, {"checkpoint": str(file)}).get_parsed_content("outside_hu") == -150.0


@pytest.mark.parametrize("training", ["neighbours", "unet", "volumes", "axial", "instances"])
def test_evaluation_and_fine_tuning_follow_the_weights(tmp_path, training):
    overlays, values = TRAININGS[training]
    description, file = common_description(str(weights(tmp_path, overlays, **values)))
    trained = ConfigParser(training_config(overlays, {**SMALL, **values}))
    for files, start in ((["evaluate.yaml"], "checkpoint"), (["finetune.yaml"], "init_checkpoint")):
        config = training_config(files, {start: str(file)})
        merged = DescribedConfig(config, read_base(["train.yaml", *files]), kind="training").merge(description, file)
        parser = ConfigParser({**merged, "bundle_root": config["bundle_root"], "device": "cpu"})
        load_weights(parser.get_parsed_content("network_def"), str(file), exact=True)
        for name in ("spacing", "patch_size", "neighbours", "outside_hu"):
            assert parser.get_parsed_content(name) == trained.get_parsed_content(name)
        assert parser["resample"][0]["axcodes"] == trained["resample"][0]["axcodes"]
        assert parser["validate"]["inferer"]["_target_"] == trained["validate"]["inferer"]["_target_"]


@pytest.mark.parametrize(
    ("overlays", "values", "line"),
    [
        (["network/unet.yaml"], {}, r"network_def::_target_=BasicUNet: .*model\.pt was trained with scripts\.networks\.MSFFNet"),
        (None, {"network_def::features": [4, 4, 4, 4, 4]}, r"network_def::features=\[4, 4, 4, 4, 4\]: .*trained with \[4, 4, 8"),
        (["ablation/no_sem.yaml"], {}, "network_def::use_sem=False: .* was trained with True"),
        (None, {"neighbours": 0}, "neighbours=0: .* was trained with 2; leave the option or overlay out"),
        (["spatial_3d/inference.yaml"], {}, "network_def::spatial_dims=3: .* was trained with 2"),
    ],
)
def test_another_network_is_refused_in_one_line(tmp_path, overlays, values, line):
    file = weights(tmp_path, ["vertebrae.yaml"])
    with pytest.raises(InputError, match=line) as caught:
        read_config(overlays, {"checkpoint": str(file), **values})
    assert "\n" not in str(caught.value)


def test_given_input_is_used_with_one_line(tmp_path, caplog):
    file = weights(tmp_path, ["vertebrae.yaml"])
    with caplog.at_level(logging.WARNING):
        parser = read_config("spatial_25d.yaml", {"checkpoint": str(file), "spacing": [3.0, 3.0, 3.0], "min_volume_ml": 1.0})
    assert parser["neighbour_mm"] == 7.5
    assert parser["spacing"] == [3.0, 3.0, 3.0]
    assert parser["min_volume_ml"] == 1.0
    lines = [r.getMessage() for r in caplog.records]
    assert lines == [
        f"spacing=[3.0, 3.0, 3.0] is used, as given; {file} was trained with [1.5, 1.5, 1.5]",
        f"neighbour_mm=7.5 is used, as given; {file} was trained with 6.0",
    ]


def test_given_default_counts_as_given(tmp_path, caplog):
    file = weights(tmp_path, ["demo.yaml"])
    parser = read_config(None, {"checkpoint": str(file), "spacing": [1.5, 1.5, 1.5]})
    assert parser["spacing"] == [1.5, 1.5, 1.5]
    assert "is used, as given" in caplog.text


def test_matching_overlays_change_nothing(tmp_path, caplog):
    file = weights(tmp_path, ["vertebrae.yaml"])
    plain, again = (read_config(o, {"checkpoint": str(file)}) for o in (None, ["vertebrae.yaml"]))
    assert plain.get() == again.get()
    assert "as given" not in caplog.text


def test_fewer_outputs_may_be_chosen(tmp_path):
    file = weights(tmp_path, ["vertebrae.yaml"])
    parser = read_config(None, {"checkpoint": str(file), "auxiliary_outputs": []})
    network = load_weights(parser.get_parsed_content("network_def"), str(file))
    assert network.eval()(torch.rand(1, 5, 32, 32)).shape[1] == 2


def test_weights_without_a_description_work_as_before(tmp_path):
    """Those of version 0.7 have 2.5D with 7.5 mm, which no file of that version holds."""
    described = weights(tmp_path, ["spatial_25d.yaml"])
    state = dict(torch.load(described, weights_only=True))
    for content in (state, {"model": state}):
        torch.save(content, tmp_path / "old.pt")
        parser = read_config(None, {"checkpoint": str(tmp_path / "old.pt"), "neighbour_mm": 7.5, **SMALL})
        assert parser["neighbour_mm"] == 7.5
        assert parser.get_parsed_content("neighbours") == 2
        loads(parser)


def test_members_of_an_ensemble_must_have_one_input(tmp_path):
    one, same = (weights(tmp_path, ["demo.yaml"], name) for name in ("a.pt", "b.pt"))
    other = weights(tmp_path, [], "c.pt")
    assert common_description([str(one), str(same)])[1] == one
    with pytest.raises(InputError, match=r"c\.pt: (network|spacing)=.*a\.pt has"):
        read_config(None, {"checkpoint": [str(one), str(other)]})


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"network": {"_target_": "os.system", "command": "true"}}, r"network os\.system, which is not part of the bundle"),
        ({"network": {"_target_": "scripts.core.files.write_text"}}, "which is not part of the bundle"),
        ({"network": {"_target_": "scripts.networks.aspp.torch"}}, "which is not part of the bundle"),
        ({"network": {"_target_": "BasicUNet", "pretrained": True}}, "its description fits no BasicUNet"),
        ({"network": {"_target_": "scripts.networks.MSFFNet", "features": [4]}}, r"fits no scripts\.networks\.MSFFNet"),
    ],
)
def test_description_names_networks_only(tmp_path, changes, words):
    file = weights(tmp_path, [])
    state = torch.load(file, weights_only=True)
    description = dataclasses.replace(description_of(state, file), **changes)
    torch.save(with_description(state, description.text()), file)
    with pytest.raises(InputError, match=words):
        read_config(None, {"checkpoint": str(file)})


INPUT = '"spacing": [1, 1, 1], "hu_window": [0, 1], "patch_size": [1, 1]'


@pytest.mark.parametrize(
    "text",
    [
        "",
        "no JSON",
        "[]",
        "{}",
        '{"format": 1}',
        f'{{"format": 1, "network": {{"_target_": "M"}}, {INPUT.replace("[1, 1, 1]", "[1, 1]")}}}',
        f'{{"format": 1, "network": {{"_target_": "M"}}, {INPUT.replace("[1, 1, 1]", "[NaN, 1, 1]")}}}',
        f'{{"format": 1, "network": {{"_target_": "$print()"}}, {INPUT}}}',
        f'{{"format": 1, "network": {{"_target_": "M", "a": "@b"}}, {INPUT}}}',
        f'{{"format": 1, "network": {{"_target_": "M", "a": [{{"_target_": "x"}}]}}, {INPUT}}}',
    ],
)
def test_damaged_description_is_one_line(tmp_path, text):
    file = weights(tmp_path, [])
    torch.save(with_description(torch.load(file, weights_only=True), text), file)
    with pytest.raises(InputError, match=r"model\.pt: its description is damaged \(.*\); describe the file again") as caught:
        read_config(None, {"checkpoint": str(file)})
    assert "\n" not in str(caught.value)


def test_monai_loads_described_weights(tmp_path):
    """MONAI's handler and its export, without a key of the weights."""
    file = weights(tmp_path, ["network/unet.yaml"])
    content = training_config(["network/unet.yaml"], {})
    stored, network = torch.load(file, weights_only=True), ConfigParser(dict(content)).get_parsed_content("network_def")
    engine = Engine(lambda *_: None)
    CheckpointLoader(str(file), {"model": network}).attach(engine)
    engine.run([0])
    assert all(torch.equal(v, stored[k]) for k, v in network.state_dict().items())
    (tmp_path / "config.json").write_text(json.dumps({"network_def": {**content["network_def"], "in_channels": 1}}))
    ckpt_export(
        "network_def", filepath=str(tmp_path / "model.ts"), ckpt_file=str(file), config_file=str(tmp_path / "config.json"),
        meta_file=str(BUNDLE / "configs" / "metadata.json"),
    )  # fmt: skip
    exported = torch.jit.load(str(tmp_path / "model.ts")).state_dict()
    assert all(torch.equal(v, stored[k]) for k, v in exported.items())


def test_exported_models_describe_themselves(tmp_path):
    pytest.importorskip("onnxscript")
    pytest.importorskip("openvino")
    values = {"network_def::features": [4, 4, 4, 4, 4, 4], "patch_size": [64, 64], "spacing": [3.0, 3.0, 3.0]}
    file = weights(tmp_path, ["network/unet.yaml", "spatial_25d.yaml"], **values)
    export(str(file), out=str(tmp_path))
    for ending in ("ts", "onnx", "xml"):
        parser = read_config(None, {"checkpoint": str(tmp_path / f"model.{ending}")})
        read = [parser.get_parsed_content(k) for k in ("spacing", "patch_size", "neighbours", "neighbour_mm")]
        assert read == [[3.0, 3.0, 3.0], [64, 64], 2, 7.5]


def test_cut_off_and_pickled_files_are_one_line(tmp_path):
    file = weights(tmp_path, [])
    file.write_bytes(file.read_bytes()[:-2000])
    with pytest.raises(InputError, match=r"model\.pt: cannot be read as weights .* copy it again"):
        read_config(None, {"checkpoint": str(file)})
    torch.save(torch.nn.Linear(1, 1), tmp_path / "whole.pt")
    with pytest.raises(InputError, match=r"whole\.pt: holds Python objects \(torch\.nn.*, whose loading could run code"):
        read_config(None, {"checkpoint": str(tmp_path / "whole.pt")})


def test_network_of_the_users_own_needs_its_overlay(tmp_path):
    content = {**training_config([], {}), "network_def": {"_target_": "own.Net", "spatial_dims": 2, "in_channels": 1}}
    description = describe_config(content)
    torch.save(with_description({"a": torch.zeros(1)}, description.text()), tmp_path / "own.pt")
    with pytest.raises(InputError, match=r"own\.pt: was trained with the network own\.Net.*add the overlay of its training"):
        read_config(None, {"checkpoint": str(tmp_path / "own.pt")})
    parser = read_config(None, {"checkpoint": str(tmp_path / "own.pt"), "network_def::_target_": "own.Net"})
    assert parser["network_def"]["_target_"] == "own.Net"


def test_description_survives_its_text():
    description = describe_config(training_config(["vertebrae.yaml"], {"seed": 3}))
    assert WeightsDescription.from_text(description.text()) == description
    assert description.recipe["seed"] == 3
    assert description.outputs == ["background", "fracture", "vertebra", "body"]


def test_older_descriptions_have_the_order_of_their_training(tmp_path):
    file = weights(tmp_path, ["plane/axial.yaml"], spacing=[3.0, 1.0, 2.0])
    content = json.loads(torch.load(file, weights_only=True).description)
    assert content["spacing"] == [1.0, 2.0, 3.0]
    old = WeightsDescription.from_text(json.dumps(content | {"format": 1, "spacing": [3.0, 1.0, 2.0]}))
    assert old.spacing == [1.0, 2.0, 3.0]
    assert WeightsDescription.from_text(old.text()) == old


def test_members_of_an_ensemble_have_the_plane_that_is_written(tmp_path):
    files = {}
    for plane in ("sagittal", "axial"):
        (tmp_path / plane).mkdir()
        files[plane] = str(weights(tmp_path / plane, [] if plane == "sagittal" else ["plane/axial.yaml"]))
    assert common_description(files) is not None
    with pytest.raises(InputError, match=r"plane=axial, and .* has sagittal; networks of an ensemble must have the same"):
        common_description(list(files.values()))
    with pytest.raises(InputError, match="was trained on axial slices; write it as axial, not sagittal"):
        common_description({"sagittal": files["axial"], "axial": files["sagittal"]})
