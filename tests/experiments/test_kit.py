# SPDX-License-Identifier: Apache-2.0
"""Archives for other machines: results come home unchanged, and everything that does not fit together is refused in one line."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scripts.core.errors import InputError
from scripts.core.files import ensure_same_settings
from scripts.core.provenance import revision
from scripts.experiments.suite.config import load_config, write_config
from scripts.experiments.suite.definition import load_suite
from scripts.experiments.suite.kit_files import pack_masks, pack_weights, read_parts, unpack_masks, unpack_weights, write_parts
from scripts.experiments.suite.kit_run import collect
from scripts.experiments.suite.record import environment, read_record, write_record
from scripts.experiments.suite.results import read_rows
from scripts.experiments.suite.stages import is_finished
from scripts.experiments.suite.unpack import unpack

DATA = "d" * 64
KIT = {"format": 1, "suite": "shipped", "kit": "k1", "data_sha256": DATA, "git": "abc"}


def member(root: Path, name: str, state: str = "finished", dice: float = 0.8, host: str = "gpu-box", **facts: object) -> Path:
    """Folder of a run as on another machine."""
    folder = root / "members" / name
    folder.mkdir(parents=True)
    rng = np.random.default_rng(len(name))
    write_config(folder / "config.yaml", {"seed": 0, "epochs": 3}, "config")
    kernels = {"a.weight": torch.from_numpy(rng.normal(size=(4, 3, 3, 3)).astype(np.float32)), "n": torch.tensor(3)}
    if state in ("finished", "trained"):
        torch.save(
            {"model": kernels | {"bn.running_var": torch.tensor([1e-7, 9e4])}, "about": {"outputs": ["x"]}}, folder / "model.pt"
        )
    if state == "finished":
        (folder / "evaluation" / "masks").mkdir(parents=True)
        (folder / "evaluation" / "cases.csv").write_text(f"case,patient,dice,iou,nsd\nc1,p1,{dice},0.7,0.7\n")
        voxels = (rng.random((5, 6, 7)) > 0.8).astype(np.uint8)
        nib.save(nib.Nifti1Image(voxels, np.diag([1.5, 1.5, 2.0, 1.0])), folder / "evaluation" / "masks" / "c1.nii.gz")
    (folder / "history.csv").write_text("epoch,seconds,val_mean_dice\n1,2.0,0.1\n2,2.0,0.4\n")
    record = {**environment(), "state": state, "seed": 0, "config_sha256": "c", "data_sha256": DATA, "ended": f"{name} {dice}"}
    record["machine"] = {"host": host, "gpus": ["H100"], "cores": 16}
    write_record(folder, record | {"stages": {"training": {"done": state != "cut off", "seconds": 60.0}}} | facts)
    return folder


def kit(**changes: object) -> dict[str, object]:
    return {**KIT, "bundle_sha256": revision()["bundle_sha256"], **changes}


@given(st.lists(st.binary(max_size=3000), min_size=1, max_size=6), st.integers(11_000, 14_000))
@settings(max_examples=30, deadline=None)
def test_parts_hold_the_files_and_their_size(tmp_path_factory, contents, size):
    folder = tmp_path_factory.mktemp("parts")
    files = {f"members/m/{n}": data for n, data in enumerate(contents)}
    paths = write_parts(files, {"suite": "s"}, folder, "s", size)
    assert all(p.stat().st_size <= size for p in paths)
    (facts, read), *rest = read_parts([*reversed(paths), paths[0]])
    assert not rest
    assert read == files
    assert facts["suite"] == "s"


def test_damaged_and_missing_parts_are_one_line(tmp_path):
    data = np.random.default_rng(0).bytes(40_000)
    paths = write_parts({"members/a/x": data}, {"suite": "s"}, tmp_path, "s", 20_000)
    assert len(paths) > 2
    with pytest.raises(InputError, match=r"part 2 of \d of the results of s is missing; name all parts"):
        read_parts([paths[0], *paths[2:]])
    whole = paths[1].read_bytes()
    for content, words in (
        (whole[:-1], "is cut off or damaged"),
        (whole[:40], "no part of results"),
        (b"PK", "no part of results"),
    ):
        paths[1].write_bytes(content)
        with pytest.raises(InputError, match=words):
            read_parts(paths)
    with pytest.raises(InputError, match="cannot be read"):
        read_parts([tmp_path / "none.1of1"])
    (path,) = write_parts({"../../evil": b"x"}, {"suite": "s"}, tmp_path, "e")
    with pytest.raises(InputError, match="outside the folder"):
        read_parts([path])


def test_masks_return_voxel_by_voxel(tmp_path):
    rng, files, arrays = np.random.default_rng(1), [], {}
    for name, shape in (("a", (3, 5, 9)), ("b.c", (8, 8, 8)), ("empty", (2, 2, 3))):
        arrays[name] = (rng.random(shape) > 0.6).astype(np.uint8) * (name != "empty")
        affine = np.diag([-1.5, 2, 3, 1.0])
        files.append(tmp_path / f"{name}.nii.gz")
        nib.save(nib.Nifti1Image(arrays[name], affine), files[-1])
    data = pack_masks(files)
    unpack_masks(data, tmp_path / "out")
    for name, array in arrays.items():
        image = nib.load(tmp_path / "out" / f"{name}.nii.gz")
        assert np.array_equal(np.asarray(image.dataobj), array)
        assert np.array_equal(image.affine, np.diag([-1.5, 2, 3, 1.0]))


def test_weights_lose_half_the_bits_of_kernels_alone(tmp_path):
    state = {"w": torch.randn(64, 8, 3, 3), "b": torch.randn(64), "v": torch.tensor([1e-9, 7e4]), "n": torch.tensor(5)}
    state["huge"] = torch.full((2, 2), 1e6)
    torch.save({"model": state, "about": {"outputs": ["fracture"], "spacing": [1.5]}}, tmp_path / "model.pt")
    data = pack_weights(tmp_path / "model.pt")
    assert len(data) < 0.62 * (tmp_path / "model.pt").stat().st_size
    unpack_weights(data, tmp_path / "back.pt")
    back = torch.load(tmp_path / "back.pt", weights_only=True)
    assert back["about"] == {"outputs": ["fracture"], "spacing": [1.5]}
    for name, value in state.items():
        assert back["model"][name].dtype == value.dtype
        if name != "w":
            assert torch.equal(back["model"][name], value)
    assert float((back["model"]["w"] - state["w"]).abs().max()) < 2e-3


def test_results_come_home_and_are_read_as_runs_of_here(tmp_path):
    away, home = tmp_path / "away", tmp_path / "home"
    for name, state in (
        ("msffnet_seed0", "finished"),
        ("unet_seed0", "trained"),
        ("fcn_seed0", "running"),
        ("segnet_seed0", "failed"),
    ):
        member(away, name, state)
    text = collect(away, kit(), tmp_path / "parts")
    assert "4 runs in 1 parts" in text
    parts = [str(p) for p in (tmp_path / "parts").iterdir()]
    message = unpack(*parts, out=str(home))
    assert "4 runs of shipped" in message
    assert "gpu-box, H100" in message
    assert is_finished(home / "members" / "msffnet_seed0")
    record = read_record(home / "members" / "msffnet_seed0")
    assert (record["kit"], record["git"], record["machine"]["host"]) == ("k1", "abc", "gpu-box")
    assert read_record(home / "members" / "fcn_seed0")["state"] == "cut off"
    assert load_config(home / "members" / "unet_seed0" / "config.yaml")["epochs"] == 3
    rows, patients = read_rows(load_suite("shipped", None, [0]), home)
    assert patients == {"c1": "p1"}
    assert rows[0].estimates["dice"].value == pytest.approx(0.8)
    before = (home / "members" / "msffnet_seed0" / "model.pt").stat().st_mtime_ns
    assert "msffnet_seed0: is here already; nothing is changed" in unpack(*parts, out=str(home))
    assert (home / "members" / "msffnet_seed0" / "model.pt").stat().st_mtime_ns == before
    assert not list((home / "members").glob(".*"))


def test_a_later_window_completes_a_member(tmp_path):
    home = tmp_path / "home"
    for number, state in enumerate(("cut off", "finished")):
        member(tmp_path / state, "unet_seed0", state)
        collect(tmp_path / state, kit(), tmp_path / f"parts{number}")
        unpack(str(tmp_path / f"parts{number}" / "shipped.1of1"), out=str(home))
    assert is_finished(home / "members" / "unet_seed0")
    message = unpack(str(tmp_path / "parts0" / "shipped.1of1"), out=str(home))
    assert "unet_seed0: is finished here, and cut off in the results" in message
    assert is_finished(home / "members" / "unet_seed0")


@pytest.mark.parametrize(
    ("changes", "facts", "words"),
    [
        ({}, {"data_sha256": "e" * 64}, "was begun with data_sha256="),
        ({"bundle_sha256": "x"}, {"bundle_sha256": "x"}, "another revision"),
        ({}, {}, "is finished already, on gpu-box; delete it to take the results of other-box"),
        ({"config_sha256": "z"}, {}, "other settings"),
        ({"data_sha256": "z"}, {}, "have another data_sha256 than their archive"),
    ],
)
def test_results_that_do_not_fit_are_refused(tmp_path, changes, facts, words):
    home = tmp_path / "home"
    member(home, "unet_seed0")
    ensure_same_settings(home, {"data_sha256": DATA})
    own = {"data_sha256": facts["data_sha256"]} if "data_sha256" in facts else {}
    member(tmp_path / "away", "unet_seed0", dice=0.5, host="other-box", **{**own, **changes})
    collect(tmp_path / "away", kit(**facts), tmp_path / "parts")
    stamp = (home / "members" / "unet_seed0" / "record.json").read_bytes()
    with pytest.raises(InputError, match=words):
        unpack(str(tmp_path / "parts" / "shipped.1of1"), out=str(home))
    assert (home / "members" / "unet_seed0" / "record.json").read_bytes() == stamp


def test_half_a_member_is_refused(tmp_path):
    folder = member(tmp_path / "away", "unet_seed0")
    (folder / "config.yaml").unlink()
    collect(tmp_path / "away", kit(), tmp_path / "parts")
    with pytest.raises(InputError, match="half a member"):
        unpack(str(tmp_path / "parts" / "shipped.1of1"), out=str(tmp_path / "home"))
    assert not (tmp_path / "home" / "members").exists()
    with pytest.raises(InputError, match="no results are named"):
        unpack()


def test_results_above_the_limit_leave_out_masks_then_weights(tmp_path):
    small, large = (member(tmp_path / "away", f"{n}_seed0") for n in ("msffnet", "fcn"))
    torch.save({"w": torch.randn(300, 300)}, large / "model.pt")
    text = collect(tmp_path / "away", kit(), tmp_path / "parts", most=2, part_bytes=60_000)
    assert "left out for their size: masks of all members, weights of fcn_seed0" in text
    message = unpack(*(str(p) for p in (tmp_path / "parts").iterdir()), out=str(tmp_path / "home"))
    assert "weights of fcn_seed0" in message
    assert not (tmp_path / "home" / "members" / "fcn_seed0" / "model.pt").exists()
    assert (tmp_path / "home" / "members" / small.name / "model.pt").is_file()
    shutil.rmtree(tmp_path / "home")


def test_an_old_part_does_not_remain(tmp_path):
    member(tmp_path / "away", "unet_seed0")
    for size in (12_000, 15_000_000):
        collect(tmp_path / "away", kit(), tmp_path / "parts", part_bytes=size)
    assert [p.name for p in (tmp_path / "parts").iterdir()] == ["shipped.1of1"]
    assert json.loads((tmp_path / "parts" / "shipped.1of1").read_bytes().split(b"\n")[0].split(b" ", 1)[1])["parts"] == 1
