# SPDX-License-Identifier: Apache-2.0
"""A checkpoint is whole or not there, whatever happens while it is written."""

from __future__ import annotations

import os
from contextlib import suppress

import pytest
import torch
from ignite.engine import Engine, Events
from scripts.core.errors import InputError
from scripts.training import checkpoint
from scripts.training.checkpoint import CheckpointSaver, forget_state, previous, read_state, write_checkpoint
from torch import nn


class Killed(BaseException):
    """Stands for a process that ends at this call."""


def write(path, number: int) -> None:
    write_checkpoint(path, {"number": number, "weights": torch.full((50,), float(number))}, header=True)


def read(path) -> int | None:
    content, _ = read_state(path, "cpu")
    return None if content is None else content["number"]


def test_the_last_two_states_are_kept(tmp_path):
    path = tmp_path / "state.pt"
    assert read(path) is None
    for number in (1, 2, 3):
        write(path, number)
        assert read(path) == number
    path.unlink()
    assert read(path) == 2
    write(path, 4)
    forget_state(path)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("damage", ["cut", "flip", "empty", "foreign"])
def test_a_damaged_state_is_noticed_and_the_one_before_is_used(tmp_path, damage, caplog):
    path = tmp_path / "state.pt"
    write(path, 1)
    write(path, 2)
    data = bytearray(path.read_bytes())
    if damage == "flip":
        data[len(data) // 2] ^= 1
    path.write_bytes({"cut": data[:-20], "flip": data, "empty": b"", "foreign": b"PK\x03\x04"}[damage])
    assert read(path) == 1
    assert f"{path}: cannot be taken up again" in caplog.text
    previous(path).write_bytes(b"")
    with pytest.raises(InputError, match=r"state\.pt: cannot be taken up again .*--resume False"):
        read(path)


@pytest.mark.parametrize("after", [0, 1])
@pytest.mark.parametrize("call", ["fsync", "link", "replace"])
def test_a_kill_at_any_call_leaves_the_last_state(tmp_path, monkeypatch, call, after):
    path = tmp_path / "state.pt"
    write(path, 1)
    write(path, 2)
    real, calls = getattr(os, call), []

    def die(*args):
        calls.append(args)
        if len(calls) > after:
            raise Killed
        return real(*args)

    monkeypatch.setattr(checkpoint.os, call, die)
    with suppress(Killed):
        write(path, 3)
    assert read(path) in (2, 3)
    assert read(previous(path)) in (1, 2)


def test_without_links_the_state_before_is_copied(tmp_path, monkeypatch):
    def refuse(*args):
        raise OSError("no links here")

    monkeypatch.setattr(checkpoint.os, "link", refuse)
    path = tmp_path / "state.pt"
    write(path, 1)
    write(path, 2)
    assert read(previous(path)) == 1


def test_a_disk_that_is_full_names_the_file_and_leaves_the_last_state(tmp_path, monkeypatch):
    path = tmp_path / "state.pt"
    write(path, 1)

    def full(*args):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(checkpoint.os, "fsync", full)
    with pytest.raises(OSError, match=r"No space left on device: '.*state\.pt'"):
        write(path, 2)
    assert read(path) == 1
    assert [f.name for f in tmp_path.iterdir()] == ["state.pt"]


def saved(folder, scores: list[float], **options) -> list[bool]:
    """Validate with these scores; return after each whether the file of the best weights was there while it was written."""
    network = nn.Linear(1, 1)
    seen = []
    engine = Engine(lambda *_: None)
    values = iter(scores)

    def score(engine: Engine) -> None:
        engine.state.metrics["m"] = next(values)
        network.weight.data.fill_(engine.state.metrics["m"])

    engine.add_event_handler(Events.EPOCH_COMPLETED, score)
    saver = CheckpointSaver(str(folder), {"model": network}, save_key_metric=True, key_metric_name="m", **options)
    saver.attach(engine)
    real = checkpoint.write_checkpoint

    def look(path, *args, **kwargs):
        seen.append(path.is_file())
        real(path, *args, **kwargs)

    checkpoint.write_checkpoint = look
    try:
        engine.run([0], max_epochs=len(scores))
    finally:
        checkpoint.write_checkpoint = real
    return seen


def test_the_best_weights_are_there_at_any_moment(tmp_path):
    assert saved(tmp_path, [0.5, 0.25, 0.75], key_metric_filename="model.pt") == [False, True]
    assert torch.load(tmp_path / "model.pt", weights_only=True)["weight"].item() == 0.75
    assert [f.name for f in tmp_path.iterdir()] == ["model.pt"]


def test_named_by_score_the_older_files_go_as_with_monai(tmp_path):
    saved(tmp_path, [0.5, 0.75], key_metric_n_saved=1)
    assert len(list(tmp_path.iterdir())) == 1


def test_a_run_that_fails_saves_no_final_weights(tmp_path):
    def step(*_):
        raise RuntimeError("no more")

    engine = Engine(step)
    saver = CheckpointSaver(str(tmp_path), {"model": nn.Linear(1, 1)}, save_final=True, final_filename="model.pt")
    saver.attach(engine)
    with pytest.raises(RuntimeError, match="no more"):
        engine.run([0])
    assert list(tmp_path.iterdir()) == []
