# SPDX-License-Identifier: Apache-2.0
"""The installable package: its list of folders, its data, its version, its public names and their types."""

import importlib.util
import sys
from pathlib import Path

import pytest
import tomllib
import yaml
from conftest import BUNDLE, ROOT
from scripts.core.config_package import localise
from scripts.core.provenance import version

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8")) if sys.version_info >= (3, 11) else {}


def test_every_folder_of_the_code_is_packaged():
    folders = {f.parent for f in BUNDLE.rglob("*.py") if "runs" not in f.relative_to(BUNDLE).parts}
    names = {".".join(("spine_fracture", *f.relative_to(BUNDLE).parts)) for f in folders}
    assert set(PROJECT["tool"]["setuptools"]["packages"]) == names


def test_configs_weights_and_assets_are_packaged():
    patterns = PROJECT["tool"]["setuptools"]["package-data"]["spine_fracture"]
    packaged = {f for p in patterns for f in BUNDLE.glob(p)}
    needed = {*BUNDLE.glob("scripts/visualization/assets/*")}
    assert {f.name for f in needed} >= {"niivue.min.js", "niivue.LICENSE.txt", "viewer.js", "viewer.css", "vertebra_table.js"}
    needed |= {*BUNDLE.glob("configs/**/*.yaml"), BUNDLE / "configs/metadata.json", BUNDLE / "models/model.pt", BUNDLE / "py.typed"}
    assert needed <= packaged


def test_version_is_one():
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    changelog = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    assert PROJECT["project"]["version"] == version() == citation["version"]
    assert f"## {version()} " in changelog


def test_citation_has_the_fields_of_its_schema():
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    assert {"cff-version", "message", "title", "authors"} <= citation.keys()
    assert citation["cff-version"] == "1.2.0"
    for reference in citation["references"]:
        assert {"type", "title", "authors"} <= reference.keys()
        assert all(a.keys() <= {"family-names", "given-names", "name"} for a in reference["authors"])


@pytest.fixture
def package():
    """The bundle's folder imported as the installed package is."""
    name = "spine_fracture_copy"
    spec = importlib.util.spec_from_file_location(name, BUNDLE / "__init__.py", submodule_search_locations=[str(BUNDLE)])
    module = sys.modules[name] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    yield module
    for key in [k for k in sys.modules if k.split(".")[0] == name]:
        del sys.modules[key]


def test_public_names_are_imported_at_first_use(package):
    assert not any(name.startswith("spine_fracture_copy.scripts") for name in sys.modules)
    assert set(dir(package)) == {"MSFFNet", "__version__", "score", "segment"}
    assert package.__version__ == version()
    assert package.MSFFNet.__module__ == "spine_fracture_copy.scripts.networks.msffnet"
    assert callable(package.segment)
    assert callable(package.score)
    with pytest.raises(AttributeError, match="no attribute 'train'"):
        _ = package.train


def test_bad_input_is_a_value_error_of_one_line(package, tmp_path):
    with pytest.raises(ValueError, match=r"nothing\.nii\.gz") as raised:
        package.segment(str(tmp_path / "nothing.nii.gz"), out=str(tmp_path / "out"))
    assert not isinstance(raised.value, SystemExit)
    assert "\n" not in str(raised.value)


def test_public_functions_document_every_argument(package):
    import inspect

    for function in (package.segment, package.score):
        text = inspect.getdoc(function)
        assert "Returns:" in text
        assert "Raises:" in text
        assert all(f"{name}:" in text for name in inspect.signature(function).parameters)


def test_targets_follow_the_name_of_the_package():
    config = {
        "a": {"_target_": "scripts.x.Y", "b": "scripts.z"},
        "c": ["$import scripts.x as x", "@a", 1],
        "_target_": "monai.scripts.Z",
    }
    expected = {
        "a": {"_target_": "spine_fracture.scripts.x.Y", "b": "scripts.z"},
        "c": ["$import spine_fracture.scripts.x as x", "@a", 1],
        "_target_": "monai.scripts.Z",
    }
    assert localise(config, "spine_fracture.scripts") == expected
    assert localise(config, "scripts") == config
    assert localise(expected, "spine_fracture.scripts") == expected


def test_no_network_registry_or_machine_path_in_the_package():
    for file in [
        *BUNDLE.glob("scripts/**/*.py"),
        *BUNDLE.glob("configs/**/*.yaml"),
        ROOT / "README.md",
        *Path(ROOT / "docs").glob("*.md"),
    ]:
        text = file.read_text(encoding="utf-8")
        assert not [folder for folder in (ROOT, Path.home()) if f"{folder}/" in text], file
