# SPDX-License-Identifier: Apache-2.0
"""Folder of the app: current code, weights of earlier sessions, merged configs; errors of one line."""

from __future__ import annotations

import json
import runpy
import shutil
import socket
import sys

import pytest
import torch
from conftest import BUNDLE
from monai.bundle import ConfigParser
from scripts.core.config_package import localise, portable
from scripts.core.errors import InputError
from scripts.label import serve
from scripts.label.serve import NAME, command, environment, prepare_app
from scripts.networks.weights_description import with_description
from scripts.training.describe_run import describe_config
from scripts.training.describe_weights import training_config
from scripts.training.described_config import INPUT
from scripts.training.preflight import preflight

OVERLAY = {"network_def::features": [4, 4, 8, 8, 8], "spacing": [4.0, 3.0, 3.0], "epochs": 3}


@pytest.fixture
def weights(tmp_path, bundle):
    (tmp_path / "small.json").write_text(json.dumps(OVERLAY))
    parser = ConfigParser()
    parser.read_config([str(bundle / "configs" / "train.yaml"), str(tmp_path / "small.json")])
    torch.save(parser.get_parsed_content("network_def").state_dict(), tmp_path / "weights.pt")
    return tmp_path / "weights.pt"


def test_app_has_the_bundle_with_merged_configs_and_weights(bundle, weights, tmp_path):
    app = tmp_path / "app"
    (app / "model").mkdir(parents=True)
    notes = prepare_app(app, str(weights), [str(tmp_path / "small.json")])
    target = app / "model" / NAME
    assert (target / "models" / "model.pt").read_bytes() == weights.read_bytes()
    assert str(weights) in notes[0]
    for name in ("train", "inference"):
        merged = ConfigParser.load_config_file(str(target / "configs" / f"{name}.json"))
        assert merged["network_def"]["features"] == OVERLAY["network_def::features"]
        assert merged["spacing"] == OVERLAY["spacing"]
    training = ConfigParser.load_config_file(str(target / "configs" / "train.json"))
    assert (training["resume"], training["patience"], training["require_improvement"]) == (False, None, True)
    assert (app / "main.py").read_text() == (bundle / "scripts" / "label" / "app.py").read_text()
    assert not list(target.rglob("__pycache__"))


def test_config_of_training_has_the_exceptions_of_monai_label(bundle, tmp_path):
    (tmp_path / "app" / "model").mkdir(parents=True)
    prepare_app(tmp_path / "app")
    configs = tmp_path / "app" / "model" / NAME / "configs"
    expected = ConfigParser()
    expected.read_config([str(bundle / "configs" / name) for name in ("train.yaml", "label_train.yaml")])
    content = ConfigParser.load_config_file(str(configs / "train.json"))
    described = {"_meta_", "network_def", "auxiliary_outputs", *INPUT}  # those of the weights, where they describe themselves
    assert {k: v for k, v in content.items() if k not in described} == {
        k: v for k, v in expected.get().items() if k not in described
    }
    for key in ("train::trainer::max_epochs", "train::dataset::data", "validate::dataset::data", "train::handlers", "network"):
        assert key in expected  # MONAI Label overrides or reads these


def test_described_weights_need_no_config(tmp_path):
    content = training_config(["network/unet.yaml", "spatial_25d.yaml"], {"spacing": [3.0, 3.0, 3.0]})
    network = ConfigParser(dict(content)).get_parsed_content("network_def")
    torch.save(with_description(network.state_dict(), describe_config(content).text()), tmp_path / "own.pt")
    (tmp_path / "app" / "model").mkdir(parents=True)
    prepare_app(tmp_path / "app", str(tmp_path / "own.pt"))
    configs = tmp_path / "app" / "model" / NAME / "configs"
    for name in ("train", "inference"):
        parser = ConfigParser()
        parser.read_config(str(configs / f"{name}.json"))
        assert (parser["spacing"], parser["neighbours"], parser["neighbour_mm"]) == ([3.0, 3.0, 3.0], 2, 7.5)
        assert parser["network_def"]["_target_"] == "BasicUNet"
        assert parser["bundle_root"].startswith("$")
    assert parser["network_def"]["in_channels"] == "$2 * @neighbours + 1"


def test_trained_weights_of_a_session_are_kept_unless_fresh(weights, tmp_path):
    app = tmp_path / "app"
    (app / "model").mkdir(parents=True)
    config = [str(tmp_path / "small.json")]
    prepare_app(app, str(weights), config)
    own = app / "model" / NAME / "models" / "model.pt"
    state = torch.load(own, weights_only=True)
    torch.save({k: v * 2 if v.is_floating_point() else v for k, v in state.items()}, own)
    trained = own.read_bytes()
    assert "last session" in prepare_app(app, str(weights), config)[0]
    assert own.read_bytes() == trained
    prepare_app(app, str(weights), config, fresh=True)
    assert own.read_bytes() == weights.read_bytes()


@pytest.mark.parametrize("neighbours", [0, 2])
def test_number_of_slices_is_that_of_the_apps_weights(weights, tmp_path, bundle, neighbours):
    parser = ConfigParser()
    parser.read_config([str(bundle / "configs" / "train.yaml"), str(tmp_path / "small.json")])
    parser["neighbours"] = neighbours
    torch.save(parser.get_parsed_content("network_def").state_dict(), weights)
    (tmp_path / "app" / "model").mkdir(parents=True)
    assert str(weights) in prepare_app(tmp_path / "app", str(weights), [str(tmp_path / "small.json")])[0]


def test_shipped_weights_of_another_network_are_left_out(weights, tmp_path, monkeypatch):
    fake = tmp_path / "bundle"
    for part in ("configs", "scripts", "docs"):
        shutil.copytree(BUNDLE / part, fake / part, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(BUNDLE / "LICENSE", fake)
    (fake / "models").mkdir()
    monkeypatch.setattr(sys.modules[prepare_app.__module__], "BUNDLE", fake)
    parser = ConfigParser()
    parser.read_config(str(fake / "configs" / "train.yaml"))
    torch.save(parser.get_parsed_content("network_def").state_dict(), fake / "models" / "model.pt")
    for config, fits in (([], True), ([str(tmp_path / "small.json")], False)):
        app = tmp_path / f"app{fits}"
        (app / "model").mkdir(parents=True)
        note = prepare_app(app, None, config)[0]
        assert (app / "model" / NAME / "models" / "model.pt").is_file() == fits
        assert ("belongs to another network" in note) != fits


@pytest.mark.parametrize(
    ("given", "config", "words"),
    [("none.pt", [], "no such checkpoint"), (None, ["none.yaml"], "no such config"), ("weights.pt", [], "another network")],
)
def test_wrong_weights_and_configs_are_refused(weights, tmp_path, given, config, words):
    app = tmp_path / "app"
    (app / "model").mkdir(parents=True)
    with pytest.raises(InputError, match=words):
        prepare_app(app, given and str(tmp_path / given), config)


def test_server_is_local_and_downloads_nothing(tmp_path, monkeypatch):
    monkeypatch.setenv("MONAI_LABEL_SESSION_PATH", "mine")
    line = " ".join(command(tmp_path, tmp_path, "127.0.0.1", 8000))
    assert "--host 127.0.0.1" in line
    assert "zoo_source local" in line
    assert "epistemic_model" not in line
    variables = environment(tmp_path)
    assert variables["MONAI_LABEL_SESSION_PATH"] == "mine"
    assert variables["PYTHONPATH"].startswith(str(tmp_path / "start"))


def test_missing_monailabel_folder_and_port_are_one_line(tmp_path, monkeypatch):
    monkeypatch.setattr(serve.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(InputError, match="make label"):
        serve.serve(studies=str(tmp_path))
    monkeypatch.setattr(serve.importlib.util, "find_spec", lambda name: object())
    with pytest.raises(InputError, match="no such folder"):
        serve.serve(studies=str(tmp_path / "none"))
    with pytest.raises(InputError, match="--port 0"):
        serve.serve(studies=str(tmp_path), port=0)


def test_training_without_labels_has_its_own_error_line(monkeypatch):
    monkeypatch.setitem(sys.modules, "monailabel", object())
    with pytest.raises(InputError, match="no label has been submitted"):
        preflight({"training": []}, source="datalist.json")


def test_operators_are_declared_once_and_only_if_missing(bundle, monkeypatch):
    monkeypatch.setattr(sys, "meta_path", list(sys.meta_path))
    module = runpy.run_path(str(bundle / "scripts" / "label" / "torchvision_on_cpu.py"), run_name="sitecustomize")
    hook = sys.meta_path[0]
    assert type(hook).__name__ == "DeclareOperators"
    assert hook.find_spec("torch") is None
    assert hook in sys.meta_path
    assert hook.find_spec(module["META_REGISTRATIONS"]) is None
    assert hook not in sys.meta_path
    assert hasattr(torch.ops.torchvision, "nms")


def test_fresh_weights_keep_those_of_the_session(weights, tmp_path):
    app = tmp_path / "app"
    (app / "model").mkdir(parents=True)
    config = [str(tmp_path / "small.json")]
    prepare_app(app, str(weights), config)
    models = app / "model" / NAME / "models"
    (models / "kept").mkdir()
    (models / "kept" / "original.pt").write_bytes(b"origin")
    state = torch.load(weights, weights_only=True)
    torch.save({k: v * 2 if v.is_floating_point() else v for k, v in state.items()}, models / "model.pt")
    trained = (models / "model.pt").read_bytes()
    notes = prepare_app(app, str(weights), config, fresh=True)
    (folder,) = [p for p in (models / "kept").iterdir()]
    assert ((folder / "model.pt").read_bytes(), (folder / "original.pt").read_bytes()) == (trained, b"origin")
    assert any(str(folder / "model.pt") in line for line in notes)


def test_equal_names_and_a_busy_port_leave_the_app_alone(tmp_path, monkeypatch):
    monkeypatch.setattr(serve.importlib.util, "find_spec", lambda name: object())
    (tmp_path / "studies").mkdir()
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        with pytest.raises(InputError, match=r"--port \d+: .*in use; end the server there, or choose another port"):
            serve.serve(studies=str(tmp_path / "studies"), app=str(tmp_path / "app"), port=other.getsockname()[1])
    for name in ("a.nii.gz", "a.nrrd"):
        (tmp_path / "studies" / name).write_bytes(b"")
    with pytest.raises(InputError, match=r"a\.nrrd: MONAI Label takes it and a\.nii\.gz for one study"):
        serve.serve(studies=str(tmp_path / "studies"), app=str(tmp_path / "app"))
    assert not (tmp_path / "app").exists()


def test_configs_name_the_code_of_the_copy():
    """An installed package resolves them by its own names, and the copy of the bundle has the others."""
    content = {"a": {"_target_": "scripts.networks.MSFFNet"}, "b": ["$import x", "$scripts.core.paths.BUNDLE"], "c": "scripts.x"}
    here = localise(content, "spine_fracture.scripts")
    assert here["a"]["_target_"] == "spine_fracture.scripts.networks.MSFFNet"
    assert portable(here, "spine_fracture.scripts") == content
