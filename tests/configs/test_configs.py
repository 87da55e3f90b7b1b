# SPDX-License-Identifier: Apache-2.0
"""Configs parse, overlays override ids that exist, train and inference have the same network, metadata match the pins."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
import torch
from monai.bundle import ConfigParser

BUNDLE = Path(__file__).resolve().parents[2] / "bundle"
OVERLAYS = [
    *(f"ablation/no_{m}.yaml" for m in ("ffm", "sem", "aspp", "rcbam", "rbrab", "lprab")),
    "network/full_width.yaml",
    "network/wide_decoder.yaml",
    "network/unet.yaml",
    "demo.yaml",
]


def merged(bundle, *files) -> ConfigParser:
    parser = ConfigParser()
    parser.read_config([str(bundle / "configs" / f) for f in files])
    parser["bundle_root"] = str(bundle)
    parser["device"] = "cpu"
    return parser


def plain_ids(content: dict, prefix: str = "") -> set[str]:
    return {k.replace("#", "::") for k in content}


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_overlays_override_ids_that_exist(bundle, overlay):
    base = merged(bundle, "train.yaml")
    for key in ConfigParser.load_config_file(str(bundle / "configs" / overlay)):
        parent = key.rsplit("::", 1)[0]
        assert parent in base, f"{overlay} overrides {key}, which train.yaml does not have"
    network = merged(bundle, "train.yaml", overlay).get_parsed_content("network_def")
    outputs = 2 if overlay == "network/unet.yaml" else 3  # MSFFNet has a vertebra output
    if "full_width" not in overlay:
        assert network.eval()(torch.rand(1, 1, 32, 32)).shape == (1, outputs, 32, 32)


@pytest.mark.parametrize("features", [[16, 32, 64, 128, 256], [4, 4, 8, 8, 8]])
def test_wide_last_layers_follow_the_widths_of_the_encoder(bundle, features):
    parser = merged(bundle, "train.yaml", "network/wide_decoder.yaml")
    parser["network_def::features"] = features
    assert parser.get_parsed_content("network_def").decoder.head.weight.shape[1] == 3 * features[0]
    assert merged(bundle, "inference.yaml", "network/wide_decoder.yaml").get_parsed_content("network_def::decoder_channels") == 48


def test_2d_image_overlay_overrides_ids_that_exist(bundle):
    content = ConfigParser.load_config_file(str(bundle / "configs" / "images_2d.yaml"))
    training, inference = merged(bundle, "train.yaml", "evaluate.yaml"), merged(bundle, "inference.yaml")
    assert [key for key in content if key not in training] == []
    assert [key for key in content if key not in inference] == ["slices_per_volume"]


def test_simulation_on_the_fly_changes_only_training(bundle):
    content = ConfigParser.load_config_file(str(bundle / "configs" / "simulate.yaml"))
    assert set(content) == {"simulate", "preflight::needs", "train::preprocessing::transforms"}
    steps = content["train::preprocessing::transforms"]
    assert steps.index("@load") < steps.index("@simulate") < steps.index("@resample")


def test_several_processes_override_ids_that_exist(bundle):
    content = ConfigParser.load_config_file(str(bundle / "configs" / "multi_gpu_train.yaml"))
    base = merged(bundle, "train.yaml")
    options = {"sync_batchnorm", "find_unused_parameters", "backend", "process_timeout", "finalize"}
    arguments = {f"train::sampler::{name}" for name in ("batch_size", "rank", "world_size")}
    assert {key for key in content if key.lstrip("+") not in base} == options | arguments


def knobs(text: str) -> list[str]:
    """Lines of the first section of train.yaml."""
    return text.split("- knobs\n")[1].split("# ------")[0].strip().splitlines()


def test_training_config_is_short_and_knobs_come_first(bundle):
    text = (bundle / "configs" / "train.yaml").read_text()
    assert len(text.splitlines()) <= 330
    assert len(knobs(text)) <= 43
    assert "monailabel" not in text


def test_every_id_of_the_training_config_is_used(bundle):
    files = [bundle / "configs" / f for f in ("train.yaml", "evaluate.yaml", "tracking/mlflow.yaml")]
    used = set(re.findall(r"[@%](\w+)", "\n".join(f.read_text() for f in files)))
    entry_points = {"imports", "initialize", "training", "run"}
    assert set(ConfigParser.load_config_file(str(files[0]))) - used - entry_points == set()


def test_overlay_of_monai_label_overrides_ids_that_exist(bundle):
    content = ConfigParser.load_config_file(str(bundle / "configs" / "label_train.yaml"))
    assert set(content) <= set(merged(bundle, "train.yaml").get())
    handlers = merged(bundle, "train.yaml", "label_train.yaml")
    assert handlers.get_parsed_content("patience") is None
    assert handlers.get_parsed_content("require_improvement") is True


def test_no_patience_is_no_early_stopping(bundle):
    disabled = [
        merged(bundle, "train.yaml", *overlay).get_parsed_content("validate::handlers::2::_disabled_")
        for overlay in ((), ("label_train.yaml",))
    ]
    assert disabled == [False, True]


def test_ablation_overlays_switch_exactly_one_module(bundle):
    for module in ("ffm", "sem", "aspp", "rcbam", "rbrab", "lprab"):
        content = ConfigParser.load_config_file(str(bundle / "configs" / "ablation" / f"no_{module}.yaml"))
        assert content == {f"network_def::use_{module}": False}


def test_train_and_inference_have_the_same_network_and_input(bundle):
    train, inference = merged(bundle, "train.yaml"), merged(bundle, "inference.yaml")
    for key in ("spacing", "hu_window", "patch_size", "bundle_root"):
        assert train[key] == inference[key]
    last_layers = inference["network_def"].pop("decoder_channels")
    assert last_layers["checkpoint"] == "@checkpoint"  # in training those of the config
    assert train["network_def"] == inference["network_def"]


def test_recipe_is_the_papers(bundle):
    train = merged(bundle, "train.yaml")
    assert train["epochs"] == 150
    assert train["learning_rate"] == 0.001
    assert train["batch_size"] == 16
    assert train["patience"] == 5
    assert train["lr_factor"] == 0.4
    assert train["optimizer::_target_"] == "torch.optim.Adam"


def test_learning_rate_schedule_counts_validations(bundle):
    train = merged(bundle, "train.yaml")
    targets = {part: [h["_target_"] for h in train[f"{part}::handlers"]] for part in ("train", "validate")}
    assert "scripts.training.patience.LearningRate" in targets["validate"]
    assert "scripts.training.patience.LearningRate" not in targets["train"]


@pytest.mark.parametrize("overlays", [(), ("vertebra_loss.yaml", "vertebrae.yaml", "randomisation.yaml", "shipped.yaml")])
def test_handlers_are_targets_for_monai_label(bundle, overlays):
    parser = merged(bundle, "train.yaml", *overlays)
    for part in ("train", "validate"):
        assert all("_target_" in handler for handler in parser[f"{part}::handlers"])
        assert all(isinstance(handler, dict) for handler in parser[f"{part}::handlers"])


def test_learning_rate_of_the_demo_decreases_to_zero(bundle):
    demo = merged(bundle, "train.yaml", "demo.yaml")
    schedule, score = demo.get_parsed_content("lr_scheduler"), demo.get_parsed_content("lr_metric")
    rates = []
    for _ in range(demo["epochs"] // demo["val_interval"]):
        rates.append(schedule.get_last_lr()[0])
        schedule.step(*score(None))
    assert rates == sorted(rates, reverse=True)
    assert rates[0] == demo["learning_rate"]
    assert schedule.get_last_lr()[0] == pytest.approx(0.0, abs=1e-9)


def test_validation_removes_small_findings(bundle):
    from monai.data import MetaTensor

    parser = merged(bundle, "train.yaml")
    logits = torch.zeros(2, 24, 24, 24)
    logits[0] = 1.0
    logits[1, 2:16, 2:16, 2:16] = logits[1, 19:22, 19:22, 19:22] = 2.0
    assert 3**3 < 1000 * parser["min_volume_ml"] < 14**3
    label = MetaTensor(torch.zeros(1, 24, 24, 24))
    item = {"pred": MetaTensor(logits), "label": label}
    kept = parser.get_parsed_content("validate::postprocessing")(item)["pred"][1]
    assert int(kept.sum()) == 14**3


def test_every_property_of_monai_resolves_to_an_id(bundle):
    from monai.bundle.properties import InferProperties, TrainProperties

    for files, properties in ((("train.yaml",), TrainProperties), (("inference.yaml",), InferProperties)):
        parser = merged(bundle, *files)
        absent = {p["id"] for p in properties.values() if p["id"] not in parser}
        assert absent <= {"train::postprocessing", "key_metric", "dataset::data"}


def constraint_pins(path) -> dict[str, str]:
    """Pins for the newest Python: lines without a marker, or with one for at least 3.11."""
    lines = [line.split("#")[0].strip() for line in path.read_text().splitlines()]
    chosen = [line.split(";")[0].strip() for line in lines if "==" in line and "<" not in line]
    return dict(line.split("==") for line in chosen)


@pytest.mark.parametrize(
    ("bases", "overlays", "outputs"),
    [
        (("train.yaml",), (), 3),
        (("train.yaml", "vertebra_loss.yaml"), (), 3),
        (("train.yaml", "vertebra_loss.yaml"), ("vertebrae.yaml",), 4),
        (("train.yaml", "vertebra_loss.yaml"), ("vertebra_output.yaml",), 3),
        (("train.yaml", "vertebra_loss.yaml"), ("body_output.yaml",), 4),
        (("train.yaml", "evaluate.yaml"), ("vertebrae.yaml",), 4),
        (("inference.yaml",), ("vertebrae.yaml",), 4),
        (("train.yaml", "vertebra_loss.yaml"), ("vertebrae.yaml", "demo.yaml"), 4),
    ],
)
def test_networks_have_the_outputs_of_their_configs(bundle, bases, overlays, outputs):
    parser = merged(bundle, *bases, *overlays)
    for overlay in overlays:
        content = ConfigParser.load_config_file(str(bundle / "configs" / overlay))
        assert [k for k in content if k.rsplit("::", 1)[0] not in merged(bundle, *bases)] == []
    network = parser.get_parsed_content("network_def").eval()
    image = torch.rand(1, int(parser.get_parsed_content("network_def::in_channels")), 32, 32)
    assert network(image).shape == (1, outputs, 32, 32)


@pytest.mark.parametrize("value", [[], ["vertebra"], ["vertebra", "body"]])
def test_targets_of_bodies_follow_the_outputs(bundle, value):
    parser = merged(bundle, "train.yaml", "vertebra_loss.yaml")
    parser["auxiliary_outputs"] = value
    assert parser.get_parsed_content("output_targets")[1].bodies == ("body" in value)
    assert parser.get_parsed_content("network_def").decoder.head.weight.shape[0] == 2 + len(value)


def test_network_of_evaluation_has_the_outputs_of_its_checkpoint(bundle, tmp_path):
    for number in (2, 3, 4):
        torch.save({"decoder.head.weight": torch.zeros(number, 16, 1, 1)}, tmp_path / "w.pt")
        for bases in (("train.yaml", "evaluate.yaml"), ("inference.yaml",)):
            parser = merged(bundle, *bases)
            parser["checkpoint"] = str(tmp_path / "w.pt")
            assert parser.get_parsed_content("network_def").decoder.head.weight.shape[0] == number


def test_metadata_has_version_pins_and_classes(bundle):
    meta = json.loads((bundle / "configs" / "metadata.json").read_text())
    assert meta["version"] in meta["changelog"]
    pins = {"monai": meta["monai_version"], "torch": meta["pytorch_version"], **meta["required_packages_version"]}
    tested = constraint_pins(bundle.parent / "constraints.txt")
    assert {p: v for p, v in pins.items() if tested.get(p) != v} == {}
    assert meta["network_data_format"]["outputs"]["pred"]["channel_def"] == {
        "0": "background",
        "1": "fractured vertebra",
    }  # values of a mask, which MONAI Label offers as labels; the third output is none


def test_licence_of_the_bundle_equals_that_of_the_project(bundle):
    assert (bundle / "LICENSE").read_text() == (bundle.parent / "LICENSE").read_text()


INFERENCE = [
    "inference/axial.yaml",
    "inference/coronal.yaml",
    "inference/slicewise.yaml",
    "inference/ensemble.yaml",
    "inference/three_planes.yaml",
    "inference/tta.yaml",
    "inference/tta_25d.yaml",
    "inference/voxelwise.yaml",
    "runtime/bfloat16.yaml",
    "runtime/float32.yaml",
    "runtime/compile.yaml",
    "runtime/openvino.yaml",
    "spatial_25d.yaml",
    "spatial_3d/inference.yaml",
    "vertebrae.yaml",
]


@pytest.mark.parametrize("overlay", INFERENCE)
def test_inference_overlays_make_a_segmenter(bundle, overlay):
    base = merged(bundle, "inference.yaml")
    for key in ConfigParser.load_config_file(str(bundle / "configs" / overlay)):
        plain = key.lstrip("+")
        assert (plain.rsplit("::", 1)[0] if "::" in plain else plain) in base, f"{overlay} overrides {key}, which is not there"
    parser = merged(bundle, "inference.yaml", *(["spatial_25d.yaml"] if "tta_25d" in overlay else []), overlay)
    segmenter = parser.get_parsed_content("segmenter")
    planes = {"inference/axial.yaml": ["axial"], "inference/coronal.yaml": ["coronal"], "spatial_3d/inference.yaml": ["volume"]}
    if overlay == "inference/three_planes.yaml":
        assert list(segmenter.checkpoints) == ["sagittal", "coronal", "axial"]
    else:
        assert list(segmenter.checkpoints) == planes.get(overlay, ["sagittal"])
    assert segmenter.channels == 1
    # As the shipped weights; the others name files that are not there.
    single = overlay in ("inference/ensemble.yaml", "inference/three_planes.yaml", "spatial_3d/inference.yaml")
    assert parser.get_parsed_content("network_def::in_channels") == (1 if single else 5)


def test_all_overlays_of_inference_are_listed(bundle):
    folders = ("inference", "runtime")
    there = {f"{f}/{p.name}" for f in folders for p in (bundle / "configs" / f).glob("*.yaml")}
    assert there <= set(INFERENCE)


@pytest.mark.parametrize("overlay", ["plane/coronal.yaml", "plane/axial.yaml"])
def test_plane_overlays_change_the_orientation(bundle, overlay):
    plain, other = merged(bundle, "train.yaml"), merged(bundle, "train.yaml", overlay)
    assert [t["_target_"] for t in other["resample"]][: len(plain["resample"])] == [t["_target_"] for t in plain["resample"]]
    assert other["resample"] != plain["resample"]


@pytest.mark.parametrize(("overlays", "channels"), [((), 1), (("spatial_25d.yaml",), 5), (("images_2d.yaml",), 1)])
@pytest.mark.parametrize("network", [None, *(p.stem for p in (BUNDLE / "configs" / "network").glob("*.yaml"))])
def test_every_network_has_the_input_channels_of_training(bundle, overlays, channels, network):
    files = [*overlays, *([f"network/{network}.yaml"] if network else [])]
    for base in ("train.yaml", "inference.yaml"):
        parser = merged(bundle, base, *files)
        parser["checkpoint"] = "none.pt"
        assert int(parser.get_parsed_content("network_def::in_channels")) == channels
        assert 2 * parser.get_parsed_content("neighbours") + 1 == channels
        assert parser.get_parsed_content("neighbour_step") == {"images_2d.yaml": 1, "spatial_25d.yaml": 5}.get("".join(overlays), 4)
