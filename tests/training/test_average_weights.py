# SPDX-License-Identifier: Apache-2.0
"""Mean of weights: values, shares, description, and files that do not fit together."""

from __future__ import annotations

import pytest
import torch
from conftest import BUNDLE
from scripts.core.errors import InputError
from scripts.inference.config import read_config
from scripts.networks.weights_description import description_of, with_description
from scripts.training.average_weights import average
from scripts.training.checkpoint_files import write_checkpoint
from scripts.training.weights import load_weights, read_weights

SHIPPED = BUNDLE / "models" / "model.pt"


@pytest.fixture
def files(tmp_path):
    state, description = read_weights(SHIPPED)
    changed = {k: v + 1 if v.is_floating_point() else v + 5 for k, v in state.items()}
    write_checkpoint(tmp_path / "after.pt", with_description(changed, description.text()))
    return [str(SHIPPED), str(tmp_path / "after.pt")]


@pytest.mark.parametrize(("shares", "moved"), [(None, 0.5), ([0.75, 0.25], 0.25), ([0.0, 1.0], 1.0)])
def test_values_are_weighted_means(files, shares, moved, tmp_path):
    average(files, out=str(tmp_path / "mean.pt"), shares=shares)
    before, mean = (read_weights(path)[0] for path in (SHIPPED, tmp_path / "mean.pt"))
    for key, value in before.items():
        expected = value + moved if value.is_floating_point() else value + 5  # counts are those of the last file
        torch.testing.assert_close(mean[key], expected)
    described = description_of(mean, "mean.pt")
    assert described.outputs == description_of(before, "model.pt").outputs
    assert (described.recipe["mean_of"], sum(described.recipe["shares"])) == (2, 1)


def test_a_mean_of_equal_files_is_the_file_and_loads(tmp_path):
    average([str(SHIPPED)] * 3, out=str(tmp_path / "mean.pt"))
    before, mean = (read_weights(path)[0] for path in (SHIPPED, tmp_path / "mean.pt"))
    assert all(torch.equal(mean[k], v) for k, v in before.items())
    parser = read_config(None, {"checkpoint": str(tmp_path / "mean.pt")})
    load_weights(parser.get_parsed_content("network_def"), tmp_path / "mean.pt", exact=True)


def test_files_that_do_not_fit_are_refused(files, tmp_path):
    out = str(tmp_path / "mean.pt")
    state, description = read_weights(SHIPPED)
    write_checkpoint(tmp_path / "bare.pt", dict(state))
    with pytest.raises(InputError, match=r"bare.pt: has no description; add one"):
        average([files[0], str(tmp_path / "bare.pt")], out=out)
    key = next(k for k, v in state.items() if v.ndim)
    write_checkpoint(tmp_path / "other.pt", with_description({**state, key: state[key][:1]}, description.text()))
    with pytest.raises(InputError, match=rf"other.pt: is of another network than .*model.pt, {key}"):
        average([files[0], str(tmp_path / "other.pt")], out=out)
    text = description.text().replace(f'"outside_hu": {description.outside_hu}', '"outside_hu": -50.0')
    write_checkpoint(tmp_path / "air.pt", with_description(state, text))
    with pytest.raises(InputError, match=r"air.pt: outside_hu=-50.0, and"):
        average([files[0], str(tmp_path / "air.pt")], out=out)
    text = description.text().replace('"neighbour_mm": 6.0', '"neighbour_mm": 7.5')
    write_checkpoint(tmp_path / "wide.pt", with_description(state, text))
    with pytest.raises(InputError, match=r"wide.pt: neighbour_mm=7.5, and 6.0 in"):
        average([files[0], str(tmp_path / "wide.pt")], out=out)
    with pytest.raises(InputError, match="at least two files"):
        average(files[0], out=out)
    with pytest.raises(InputError, match="must be 2 numbers of at least 0 that sum to 1"):
        average(files, out=out, shares=[0.9, 0.2])
    assert not (tmp_path / "mean.pt").exists()
