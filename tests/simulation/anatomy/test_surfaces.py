# SPDX-License-Identifier: Apache-2.0
"""Folders of surfaces: names, units, persons, label maps, and one line for what cannot be used."""

from __future__ import annotations

import nibabel as nib
import numpy as np
import pytest
from scripts.core.errors import InputError
from scripts.simulation.anatomy.surfaces import folder_hash, level_of, person_folders, read_person
from scripts.simulation.anatomy.voxels import STEP_MM
from surface_files import vertebra_triangles, write_person, write_stl


@pytest.mark.parametrize(
    ("name", "level"),
    [
        ("L1_shrunk.obj", "L1"),
        ("thoracic12_s.stl", "T12"),
        ("lumbar5.stl", "L5"),
        ("vertebrae_T3.stl", "T3"),
        ("Th 7.stl", "T7"),
        ("sacrum.stl", "S1"),
        ("S1.stl", "S1"),
        ("T04.stl", "T4"),
        ("T13.stl", None),
        ("L6.stl", None),
        ("C7.stl", None),
        ("pelvis.obj", None),
        ("part0.stl", None),
        ("model3.stl", None),
    ],
)
def test_levels_of_names(name, level):
    assert level_of(name) == level


def test_metres_and_millimetres_are_the_same_vertebra(tmp_path):
    maps = [read_person(write_person(tmp_path / str(unit), ("L3",), unit=unit))["L3"] for unit in (1.0, 0.001)]
    volumes = [(m.distance < 0).sum() for m in maps]
    assert volumes[0] == pytest.approx(volumes[1], rel=0.01)
    np.testing.assert_allclose(maps[0].origin, maps[1].origin, atol=0.01)


def test_a_label_map_adds_levels_without_surface(tmp_path):
    person = write_person(tmp_path / "one", ("L3",))
    whole = read_person(person)["L3"]
    labels = np.zeros((whole.distance.shape[0] + 4, *whole.distance.shape[1:]), np.uint8)
    labels[:-4][whole.distance < 0] = 23
    labels[-2:] = 3  # cervical, which is left out
    affine = np.diag([-STEP_MM, STEP_MM, STEP_MM, 1.0])
    affine[:3, 3] = [50, -30, 7]
    nib.save(nib.Nifti1Image(labels, affine), person / "mask.nii.gz")
    maps = read_person(person)
    assert list(maps) == ["L3", "L4"]
    assert (maps["L4"].distance < 0).sum() == pytest.approx((whole.distance < 0).sum(), rel=0.03)
    inside = np.argwhere(maps["L4"].distance < 0).mean(axis=0) * STEP_MM + maps["L4"].origin
    np.testing.assert_allclose(inside, affine[:3, :3] @ np.argwhere(labels == 23).mean(axis=0) + affine[:3, 3], atol=0.2)


def test_persons_are_folders_and_the_hash_follows_files(tmp_path):
    write_person(tmp_path / "a", ("L3",))
    write_person(tmp_path / "b" / "deep", ("L3",))
    (tmp_path / "notes").mkdir()
    (tmp_path / "notes" / "LICENSE").write_text("MIT")
    assert [p.name for p in person_folders(tmp_path)] == ["a", "deep"]
    first = folder_hash(tmp_path)
    assert first == folder_hash(str(tmp_path))
    write_stl(tmp_path / "a" / "L3.stl", vertebra_triangles("L3")[1:])
    assert folder_hash(tmp_path) != first


def test_unusable_folders_are_one_line(tmp_path):
    cases = {"no such folder": tmp_path / "gone", "contains no surfaces": tmp_path}
    for message, folder in cases.items():
        with pytest.raises(InputError, match=message):
            person_folders(folder)
    box = vertebra_triangles("L3", 4.0)
    write_stl(tmp_path / "unnamed" / "part0.stl", box)
    write_stl(tmp_path / "only_sacrum" / "sacrum.stl", box)
    for name in ("unnamed", "only_sacrum"):
        with pytest.raises(InputError, match="its name has no level"):
            read_person(tmp_path / name)
    write_stl(tmp_path / "twice" / "L3.stl", box)
    write_stl(tmp_path / "twice" / "lumbar3.stl", box)
    with pytest.raises(InputError, match=r"is L3 as L3\.stl is"):
        read_person(tmp_path / "twice")
    for factor in (0.1, 30.0, 1e-5):
        write_stl(tmp_path / "inches" / "L3.stl", box * factor)
        with pytest.raises(InputError, match="mm, or the same in metres; scale the mesh"):
            read_person(tmp_path / "inches")
    (tmp_path / "scan").mkdir()
    nib.save(nib.Nifti1Image(np.full((4, 4, 4), -1000, np.int16), np.eye(4)), tmp_path / "scan" / "ct.nii.gz")
    with pytest.raises(InputError, match="is no label map"):
        read_person(tmp_path / "scan")
    (tmp_path / "text").mkdir()
    (tmp_path / "text" / "mask.nii.gz").write_text("no image")
    with pytest.raises(InputError, match="is no label map"):
        read_person(tmp_path / "text")


def test_a_name_with_two_levels_is_refused():
    with pytest.raises(InputError, match="several levels, S1 and L3"):
        level_of("s01_L3.stl")


def test_label_maps_of_two_persons_and_cut_vertebrae_are_refused(tmp_path):
    surface = read_person(write_person(tmp_path / "one", ("L3",)))["L3"]
    labels = np.where(np.pad(surface.distance, 2, constant_values=9) < 0, 23, 0).astype(np.uint8)
    affine = np.diag([STEP_MM] * 3 + [1.0])
    for name in ("a.nii.gz", "b.nii.gz"):
        nib.save(nib.Nifti1Image(labels, affine), tmp_path / "one" / name)
    with pytest.raises(InputError, match=r"b.nii.gz: has L4 as a.nii.gz has; put every person into a folder of its own"):
        read_person(tmp_path / "one")
    (tmp_path / "cut").mkdir()
    nib.save(nib.Nifti1Image(labels[:, :, : labels.shape[2] // 2], affine), tmp_path / "cut" / "a.nii.gz")
    with pytest.raises(InputError, match="shows no vertebra from T1 to L5 that the border does not cut"):
        read_person(tmp_path / "cut")
