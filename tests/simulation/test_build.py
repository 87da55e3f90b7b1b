# SPDX-License-Identifier: Apache-2.0
"""One set from several sources: rendered masks, merged datalists, a hash that depends on the data alone."""

from __future__ import annotations

import json

import nibabel as nib
import numpy as np
import pytest
import yaml
from conftest import BUNDLE, SHARED
from scripts.core.errors import InputError
from scripts.data.datalist import load_datalist
from scripts.postprocessing.vertebra_frame import FrameError
from scripts.simulation.datasets.build import build, read_recipe
from scripts.simulation.datasets.render import render
from scripts.simulation.phantom.generator import make_phantom
from scripts.simulation.rendering import render_ct
from scripts.simulation.style import ScanStyle, wide_style
from scripts.training.preflight import preflight

RECIPE = {
    "phantom": {"seed": 60, "cases": 3, "regions": ["lumbar"], "spacing": [4.0, 3.0, 3.0], "style": "wide"},
    "render": {"datalist": None, "seed": 1, "healthy": 0.0, "grades": [3]},
    "simulate": {"datalist": None, "seed": 2},
}


@pytest.fixture
def recipe(tmp_path):
    path = tmp_path / "recipe.yaml"
    path.write_text(yaml.safe_dump(RECIPE))
    return path


def test_the_hash_depends_on_the_data_alone(recipe, tmp_path):
    first, again = (build(str(recipe), str(tmp_path / name), workers=n) for name, n in (("a", 1), ("b", 2)))
    one, two = (json.loads((tmp_path / name / "build.json").read_text()) for name in ("a", "b"))
    assert one["sha256"] == two["sha256"]
    assert sum(one["cases"].values()) == 3
    assert build(str(recipe), str(tmp_path / "a")) == first != again
    recipe.write_text(yaml.safe_dump(RECIPE | {"phantom": RECIPE["phantom"] | {"seed": 70}}))
    build(str(recipe), str(tmp_path / "c"))
    assert json.loads((tmp_path / "c" / "build.json").read_text())["sha256"] != one["sha256"]


def test_parts_with_a_datalist_are_added_and_the_whole_passes_the_checks(recipe, phantom_set, tmp_path):
    path = build(str(recipe), str(tmp_path / "all"), masks=str(phantom_set), scans=str(phantom_set), cases=4)
    counts = json.loads((tmp_path / "all" / "build.json").read_text())["cases"]
    assert sum(counts.values()) == 4 + 4 + 4
    sections = {s: load_datalist(path, s) for s in ("training", "validation", "testing")}
    preflight(sections, required=list(sections), source=path, level="full", label_values=[0, 1, 255])
    kinds = {case["image"].split("/")[-3] for cases in sections.values() for case in cases}
    assert kinds == {"phantom", "render", "simulate"}


@pytest.mark.parametrize(
    ("content", "word"),
    [
        ({"phantoms": {}}, "phantoms"),
        ({"phantom": {"case": 3}}, "case"),
        ({"phantom": 3}, "3"),
        ([], "no part"),
        ("a: [", "no YAML"),
    ],
)
def test_a_wrong_recipe_is_refused(tmp_path, content, word):
    path = tmp_path / "r.yaml"
    path.write_text(content if isinstance(content, str) else yaml.safe_dump(content))
    with pytest.raises(InputError, match=word) as error:
        build(str(path), str(tmp_path / "out"))
    assert str(path) in str(error.value)
    with pytest.raises(InputError, match="no such file"):
        read_recipe(str(tmp_path / "none.yaml"))


def test_the_shipped_recipe_is_valid():
    parts = read_recipe(str(BUNDLE / "configs" / "data" / "simulated.yaml"))
    assert list(parts) == ["phantom", "render", "simulate"]


def test_a_rendered_ct_shows_the_mask_it_was_drawn_around():
    source = make_phantom(5, "lumbar", ScanStyle(spacing=(2.0, 1.5, 1.5), field_of_view=(70.0, 110.0, 150.0)))
    style = ScanStyle(noise=3.0)
    scan, again, other = (render_ct(source.labels, source.affine, style, seed) for seed in (1, 1, 2))
    np.testing.assert_array_equal(scan.image, again.image)
    assert not np.array_equal(scan.image, other.image)
    # World coordinates of the bone are those of the mask, although tissue was added around it.
    for array, affine in ((source.labels, source.affine), (scan.labels, scan.affine)):
        voxels = np.argwhere((array > 0) & (array < 26))
        places = (affine[:3, :3] @ voxels.T).T + affine[:3, 3]
        np.testing.assert_allclose(
            places.mean(axis=0), (source.affine @ [*np.argwhere(source.labels > 0).mean(0), 1])[:3], atol=0.1
        )
    bone = np.median(scan.image[scan.labels > 0])
    assert bone > np.median(scan.image[scan.labels == 0]) + 100
    with pytest.raises(FrameError, match="no vertebral body"):
        render_ct(np.zeros_like(source.labels), source.affine, style, 0)


def test_real_fractures_stay_and_a_broken_mask_costs_only_itself(phantom_set, tmp_path, capsys):
    content = json.loads((phantom_set / "datalist.json").read_text())
    cases = [
        {**c, **{k: str(phantom_set / c[k]) for k in ("image", "label", "vertebrae")}} for c in content["training"]
    ]
    cases.append({"vertebrae": str(tmp_path / "gone.nii.gz"), "patient": "gone"})
    path = tmp_path / "masks.json"
    path.write_text(json.dumps({"training": cases}))
    with pytest.raises(InputError, match="1 of 3 scans"):
        render(str(path), str(tmp_path / "out"), healthy=1.0)
    assert "gone.nii.gz" in "".join(capsys.readouterr())
    made = load_datalist(str(tmp_path / "out" / "datalist.json"), "training")
    assert len(made) == 2
    for case, source in zip(made, cases[:2], strict=True):
        was, now = (np.asarray(nib.load(c["label"]).dataobj) for c in (source, case))
        assert (now == 1).sum() == (was == 1).sum()
        assert (now == 255).sum() > 0
    for options in ({"grades": [4]}, {"copies": 0}, {"healthy": 2.0}, {"min_grade": 0}, {"fractures": 0}):
        with pytest.raises(InputError, match=next(iter(options))):
            render(str(path), str(tmp_path / "x"), **options)


def test_masks_of_verse_are_drawn(tmp_path):
    masks = sorted((SHARED / "data" / "verse_masks_only").rglob("sub-verse010*vert_msk.nii.gz"))
    if not masks:
        pytest.skip("masks of VerSe are not at ../shared/data/verse_masks_only")
    mask = nib.as_closest_canonical(nib.load(masks[0]))
    labels = np.asarray(mask.dataobj).astype(np.uint8)
    affine = np.diag([*(float(z) for z in mask.header.get_zooms()), 1.0])
    scan = render_ct(labels, affine, wide_style(np.random.default_rng(0), "lumbar"), 0)
    assert {20, 21, 22, 23, 24} <= set(np.unique(scan.labels).tolist())


def test_recipe_with_an_option_of_version_05(tmp_path, caplog):
    path = tmp_path / "r.yaml"
    path.write_text(yaml.safe_dump({"phantom": {"style": "wide", "drawn": 0.5}}))
    assert read_recipe(str(path)) == {"phantom": {"style": "wide", "collapse_fraction": 0.5}}
    assert "collapse_fraction" in caplog.text
