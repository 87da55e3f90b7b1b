# SPDX-License-Identifier: Apache-2.0
"""Cached cases: equal to uncached ones, invalidated by changes, complete, shared by processes."""

from __future__ import annotations

import errno
import json
import logging
import multiprocessing
import os
import subprocess
import sys
import time
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch
from conftest import LEAN, python_path
from monai.bundle import ConfigParser
from monai.data import CacheDataset, MetaTensor
from monai.transforms import (
    Compose,
    EnsureTyped,
    Lambdad,
    LoadImaged,
    MapTransform,
    RandGaussianNoised,
    ScaleIntensityRanged,
    Spacingd,
)
from scripts.core.errors import InputError
from scripts.data.cache import entry as cache_entry
from scripts.data.cache.key import FileDigests, config_digest, item_digest
from scripts.data.cache.volume_cache import VolumeCache, cached_dataset


class Counting(MapTransform):
    """Write a line for every case that is computed."""

    def __init__(self, log: Path, wait: float = 0.0) -> None:
        super().__init__(["image"])
        self.log, self.wait = str(log), wait

    def __call__(self, data):
        with open(self.log, "a") as file:
            file.write("computed\n")
        time.sleep(self.wait)
        return dict(data)


def chain(log: Path, top: float = 100.0, wait: float = 0.0) -> Compose:
    return Compose(
        [
            LoadImaged(["image", "label"], image_only=True, ensure_channel_first=True),
            Counting(log, wait),
            Spacingd(["image", "label"], pixdim=(2.0, 2.0, 2.0), mode=("bilinear", "nearest")),
            ScaleIntensityRanged("image", 0.0, top, 0.0, 1.0),
            RandGaussianNoised("image", prob=0.5),
            EnsureTyped(["image", "label"]),
        ]
    )


def computed(log: Path) -> int:
    return len(log.read_text().splitlines()) if log.is_file() else 0


@pytest.fixture
def cases(tmp_path) -> list[dict]:
    items = []
    for number in range(3):
        random = np.random.default_rng(number)
        case = {"patient": f"p{number}"}
        for key, top in (("image", 100), ("label", 2)):
            path = tmp_path / f"{key}{number}.nii.gz"
            values = random.integers(0, top, (40, 30 + number, 20)).astype(np.int16)
            nib.save(nib.Nifti1Image(values, np.diag([1.5, 2.0, 2.0 + number, 1.0])), path)
            case[key] = str(path)
        items.append(case)
    return items


def assert_same_case(one: dict, other: dict) -> None:
    assert set(one) == set(other)
    for key, value in one.items():
        if isinstance(value, torch.Tensor):
            assert value.dtype == other[key].dtype
            assert torch.equal(torch.as_tensor(value), torch.as_tensor(other[key]))
        else:
            assert value == other[key]


def test_cases_equal_those_of_the_cache_in_memory(cases, tmp_path):
    log = tmp_path / "log"
    memory = CacheDataset(cases, chain(log), progress=False)
    for _ in range(2):
        disk = VolumeCache(cases, chain(log), tmp_path / "cache", 2)
        for data in (memory, disk):
            data.transform.set_random_state(seed=1)
        for index in range(3):
            one, other = memory[index], disk[index]
            assert_same_case(one, other)
            assert torch.equal(one["image"].affine, other["image"].affine)
            assert tuple(other["image"].pixdim) == (2.0, 2.0, 2.0)
            assert other["image"].meta["filename_or_obj"] == cases[index]["image"]
    assert computed(log) == 6


def test_changes_of_a_transform_are_not_written_to_disk(cases, tmp_path):
    data = VolumeCache(cases, chain(tmp_path / "log"), tmp_path / "cache")
    data.first_random = None
    before = data.deterministic(0)["image"].clone()
    data.deterministic(0)["image"].zero_()
    assert torch.equal(data.deterministic(0)["image"], before)


def test_volumes_are_memory_mapped(tmp_path):
    cache_entry.write_entry(tmp_path / "a" / "b", {"image": MetaTensor(torch.zeros(1, 100, 100, 100)), "few": np.arange(3)})
    item = cache_entry.read_entry(tmp_path / "a" / "b")
    resident = [line for line in Path("/proc/self/maps").read_text().splitlines() if str(tmp_path) in line]
    assert len(resident) == 1
    assert item["image"].shape == (1, 100, 100, 100)
    assert item["few"].tolist() == [0, 1, 2]


def test_changed_files_and_configs_have_new_entries(cases, tmp_path):
    log, folder = tmp_path / "log", tmp_path / "cache"
    VolumeCache(cases, chain(log), folder)
    assert computed(log) == 3
    VolumeCache(cases, chain(log, top=50.0), folder)
    assert computed(log) == 6

    image = nib.load(cases[0]["image"])
    changed = nib.Nifti1Image(np.asarray(image.dataobj) + 1, image.affine)
    old = os.stat(cases[0]["image"])
    nib.save(changed, cases[0]["image"])
    data = VolumeCache(cases, chain(log), folder)
    assert computed(log) == 7
    assert float(data.deterministic(0)["image"].min()) > 0.009

    os.rename(cases[1]["image"], tmp_path / "moved.nii.gz")
    cases[1]["image"] = str(tmp_path / "moved.nii.gz")
    os.utime(cases[2]["image"], ns=(old.st_atime_ns, old.st_mtime_ns))
    data = VolumeCache(cases, chain(log), folder)
    assert computed(log) == 7  # neither name nor time of a file is its content
    assert data.deterministic(1)["image"].meta["filename_or_obj"] == cases[1]["image"]


def adding(number: int):
    return lambda x: x + number


def test_digests_differ_exactly_for_different_transforms():
    def make(**more):
        return Spacingd("image", pixdim=more.pop("pixdim", (1.0, 1.0, 1.0)), mode="bilinear", **more)

    assert config_digest([make()]) == config_digest([make()])
    one, two, three = (Lambdad("image", func=f) for f in (lambda x: x + 1, lambda x: x + 2, lambda x: x + 1))
    outer = [Lambdad("image", func=adding(n)) for n in (1, 2)]
    different = [[make()], [make(pixdim=(1.0, 1.0, 2.0))], [make(diagonal=True)], [make(), make()], [one], [two]]
    assert len({config_digest(d) for d in [*different, [outer[0]], [outer[1]]]}) == 8
    assert config_digest([one]) == config_digest([three])


def test_digests_are_equal_in_every_process(bundle):
    code = (
        f"{LEAN}\n"
        "from monai.transforms import *; from scripts.data.cache.key import config_digest\n"
        "load = LoadImaged('image'); load.names = {'one', 'two', 'three'}; spacing = Spacingd('image', pixdim=(1.0, 2.0, 3.0))\n"
        "print(config_digest([load, spacing, CastToTyped('image', dtype='float32'), Lambdad('image', func=len)]))"
    )
    environment = {**os.environ, "PYTHONHASHSEED": "7", "PYTHONPATH": python_path(bundle)}
    command = [sys.executable, "-W", "ignore", "-c", code]
    output = subprocess.run(command, capture_output=True, text=True, check=True, env=environment).stdout.split()
    space: dict = {}
    exec(code.replace("print(", "result = ("), space)
    assert output[-1] == space["result"]


def test_unchanged_files_are_not_read_again(cases, tmp_path, monkeypatch):
    for case in cases:
        for key in ("image", "label"):
            os.utime(case[key], (1e9, 1e9))
    VolumeCache(cases, chain(tmp_path / "log"), tmp_path / "cache")
    assert len(json.loads((tmp_path / "cache" / "files.json").read_text())) == 6
    opened = []
    original = Path.open
    monkeypatch.setattr(Path, "open", lambda self, *a, **k: (opened.append(self.name), original(self, *a, **k))[1])
    VolumeCache(cases, chain(tmp_path / "log"), tmp_path / "cache")
    assert not [name for name in opened if name.endswith(".nii.gz")]


@pytest.mark.parametrize("damage", ["cut", "overwritten", "lost", "index"])
def test_a_damaged_entry_is_written_again_with_one_line(cases, tmp_path, damage, caplog):
    log, folder = tmp_path / "log", tmp_path / "cache"
    intact = VolumeCache(cases, chain(log), folder)
    expected = intact.deterministic(1)["image"].clone()
    file = max(intact.folders[1].glob("*.npy"))
    if damage == "cut":
        file.write_bytes(file.read_bytes()[:-100])
    elif damage == "overwritten":
        file.write_bytes(file.read_bytes()[:200] + bytes(file.stat().st_size - 200))
    elif damage == "lost":
        file.unlink()
    else:
        (intact.folders[1] / "entry.json").write_text("{")
    with caplog.at_level(logging.WARNING):
        again = VolumeCache(cases, chain(log), folder)
    assert len([r for r in caplog.records if r.name == "scripts.data.cache.volume_cache"]) == 1
    assert "damaged" in caplog.text
    assert str(intact.folders[1]) in caplog.text
    assert computed(log) == 4
    assert torch.equal(again.deterministic(1)["image"], expected)


def test_an_entry_lost_during_a_run_is_computed_again(cases, tmp_path, caplog):
    data = VolumeCache(cases, chain(tmp_path / "log"), tmp_path / "cache")
    expected = data.deterministic(2)["image"].clone()
    cache_entry.remove_entry(data.folders[2])
    assert torch.equal(data.deterministic(2)["image"], expected)
    assert "lost during the run" in caplog.text


def test_an_interrupted_writer_leaves_no_files(cases, tmp_path, monkeypatch):
    def cut(*args, **kwargs):
        raise KeyboardInterrupt

    monkeypatch.setattr(cache_entry.np, "save", cut)
    with pytest.raises(KeyboardInterrupt):
        cache_entry.write_entry(tmp_path / "cache" / "entry", {"image": np.zeros(3)})
    assert not list((tmp_path / "cache").iterdir())


def test_stale_temporary_folders_are_removed(tmp_path):
    stale, recent = (tmp_path / "config" / name for name in (".stale", ".recent"))
    for folder, age in ((stale, cache_entry.STALE_TMP_S + 60), (recent, 0)):
        folder.mkdir(parents=True)
        os.utime(folder, (time.time() - age,) * 2)
    cache_entry.remove_stale(tmp_path)
    assert not stale.exists()
    assert recent.is_dir()


def test_two_processes_share_a_folder(cases, tmp_path):
    log, folder = tmp_path / "log", tmp_path / "cache"
    context = multiprocessing.get_context("fork")
    build = [context.Process(target=VolumeCache, args=(cases, chain(log, wait=0.1), folder)) for _ in range(2)]
    for process in build:
        process.start()
    for process in build:
        process.join(60)
    assert [process.exitcode for process in build] == [0, 0]
    done = computed(log)
    assert 3 <= done <= 6
    data = VolumeCache(cases, chain(log, wait=0.1), folder)
    assert computed(log) == done
    assert not list(folder.glob("*/.*"))
    assert_same_case(data.deterministic(0), CacheDataset(cases[:1], chain(tmp_path / "other"), progress=False)._cache[0])


def test_an_unusable_folder_is_one_line(cases, tmp_path, monkeypatch):
    occupied = tmp_path / "file"
    occupied.write_text("")
    with pytest.raises(InputError, match=rf"cache_dir={occupied}: .*choose a writable folder") as error:
        VolumeCache(cases, chain(tmp_path / "log"), occupied)
    assert "\n" not in str(error.value)

    def full(*args, **kwargs):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        patch.setattr(cache_entry.np, "save", full)
        with pytest.raises(InputError, match="No space left on device"):
            VolumeCache(cases, chain(tmp_path / "log"), tmp_path / "cache")
    assert not list((tmp_path / "cache").glob("*/*"))
    with monkeypatch.context() as patch:
        patch.setattr(os, "access", lambda *a: False)
        with pytest.raises(InputError, match="no permission to write"):
            VolumeCache(cases, chain(tmp_path / "log"), tmp_path / "cache")


def test_without_folder_cases_are_cached_in_memory(cases, tmp_path):
    data = cached_dataset(cases, chain(tmp_path / "log"), cache_rate=0.5)
    assert isinstance(data, CacheDataset)
    assert computed(tmp_path / "log") == 1


def test_repeated_cases_are_cached_once_in_memory(cases, tmp_path):
    repeated = [*cases, *(dict(c) for c in cases[1:]), dict(cases[2])]
    data = cached_dataset(repeated, chain(tmp_path / "log"))
    assert computed(tmp_path / "log") == len(cases)
    for number, case in enumerate(repeated):
        expected = cases.index(case)
        assert torch.equal(
            torch.as_tensor(data.deterministic(number)["image"]), torch.as_tensor(data.deterministic(expected)["image"])
        )
        assert set(data[number]) == set(data[expected])
    assert len(data) == len(repeated)
    assert computed(tmp_path / "log") == len(cases)


def test_training_batches_are_bitwise_those_without_cache(bundle, phantom_set, tmp_path):
    def batches(cache_dir: str | None, workers: int) -> list[torch.Tensor]:
        parser = ConfigParser()
        parser.read_config(str(bundle / "configs" / "train.yaml"))
        settings = {"dataset_dir": str(phantom_set), "bundle_root": str(bundle), "preflight": None, "cache_dir": cache_dir}
        small = {"patch_size": [32, 32], "spacing": [4.0, 4.0, 4.0], "batch_size": 4, "steps_per_epoch": 3}
        parser.update({**settings, **small, "num_workers": workers})
        loader = parser.get_parsed_content("train::dataloader")
        return [b[k].clone() for _ in range(2) for b in loader for k in ("image", "label")]

    expected = batches(None, 0)
    assert expected[0].dtype == expected[1].dtype == torch.float32
    for workers in (0, 1):
        cached = batches(str(tmp_path), workers)
        assert len(cached) == len(expected)
        assert all(torch.equal(a, b) for a, b in zip(cached, expected, strict=True))


def test_the_set_that_a_case_comes_from_does_not_matter(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "render").mkdir()  # a folder of that name is not read
    (tmp_path / "ct.nii.gz").write_bytes(b"scan")
    digests = FileDigests(tmp_path / "cache")
    case = {"image": str(tmp_path / "ct.nii.gz"), "patient": "p"}
    assert item_digest(case | {"part": "render"}, digests) == item_digest(case, digests) != item_digest({"patient": "p"}, digests)


@pytest.mark.parametrize("cached", [True, False])
@pytest.mark.parametrize("key", ["image", "label"])
def test_a_damaged_scan_is_one_line(cases, tmp_path, cached, key):
    path = Path(cases[1][key])
    path.write_bytes(path.read_bytes()[:-200])
    folder = str(tmp_path / "cache") if cached else None
    with pytest.raises(InputError, match=rf"{key}1\.nii\.gz: .*; fix or exclude this case, `.*data check` finds others"):
        cached_dataset(cases, chain(tmp_path / "log"), folder)


def test_voxels_beside_a_header_are_part_of_the_key(tmp_path):
    header, voxels = tmp_path / "ct.mhd", tmp_path / "ct.raw"
    header.write_text("NDims = 1\nElementDataFile = ct.raw\n")
    digests = []
    for content in (b"one", b"two"):
        voxels.write_bytes(content)
        digests.append(FileDigests(tmp_path)(header))
    assert digests[0] != digests[1]


def test_code_that_a_transform_uses_is_part_of_its_key():
    from scripts.data.cache import key
    from scripts.training.output_targets import OutputTargetsd

    used = key._used(OutputTargetsd.__module__)
    assert {"scripts.training.output_targets", "scripts.postprocessing.body_masks", "scripts.postprocessing.vertebra_frame"} <= used
    assert not any(name.startswith(("monai", "numpy", "torch")) for name in used)
