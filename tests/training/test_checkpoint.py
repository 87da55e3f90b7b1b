# SPDX-License-Identifier: Apache-2.0
"""Checkpoints are atomic under any failure."""

from __future__ import annotations

import os
from contextlib import suppress

import pytest
import torch
from ignite.engine import Engine, Events
from scripts.core.errors import InputError
from scripts.training import checkpoint, checkpoint_files
from scripts.training.checkpoint import CheckpointSaver
from scripts.training.checkpoint_files import delete_state, previous_path, read_state, write_checkpoint
from torch import nn


class Killed(BaseException):
    """Simulated end of the process."""


def write(path, number: int) -> None:
    write_checkpoint(path, {"number": number, "weights": torch.full((50,), float(number))}, header=True)


def read(path) -> int | None:
    content, _ = read_state(path, "cpu")
    return None if content is None else content["number"]


def test_last_two_states_are_kept(tmp_path):
    path = tmp_path / "state.pt"
    assert read(path) is None
    for number in (1, 2, 3):
        write(path, number)
        assert read(path) == number
    path.unlink()
    assert read(path) == 2
    write(path, 4)
    delete_state(path)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("damage", ["cut", "flip", "empty", "foreign"])
def test_damaged_state_falls_back_to_the_previous_one(tmp_path, damage, caplog):
    path = tmp_path / "state.pt"
    write(path, 1)
    write(path, 2)
    data = bytearray(path.read_bytes())
    if damage == "flip":
        data[len(data) // 2] ^= 1
    path.write_bytes({"cut": data[:-20], "flip": data, "empty": b"", "foreign": b"PK\x03\x04"}[damage])
    assert read(path) == 1
    assert f"{path}: cannot be resumed from" in caplog.text
    previous_path(path).write_bytes(b"")
    with pytest.raises(InputError, match=r"state\.pt: cannot be resumed from .*--resume False"):
        read(path)


@pytest.mark.parametrize("after", [0, 1])
@pytest.mark.parametrize("call", ["fsync", "link", "replace"])
def test_kill_at_any_call_leaves_an_intact_state(tmp_path, monkeypatch, call, after):
    path = tmp_path / "state.pt"
    write(path, 1)
    write(path, 2)
    real, calls = getattr(os, call), []

    def die(*args):
        calls.append(args)
        if len(calls) > after:
            raise Killed
        return real(*args)

    monkeypatch.setattr(checkpoint_files.os, call, die)
    with suppress(Killed):
        write(path, 3)
    assert read(path) in (2, 3)
    assert read(previous_path(path)) in (1, 2)


def test_previous_state_is_copied_without_hard_links(tmp_path, monkeypatch):
    def refuse(*args):
        raise OSError("no links here")

    monkeypatch.setattr(checkpoint_files.os, "link", refuse)
    path = tmp_path / "state.pt"
    write(path, 1)
    write(path, 2)
    assert read(previous_path(path)) == 1


def test_full_disk_names_the_file_and_keeps_the_last_state(tmp_path, monkeypatch):
    path = tmp_path / "state.pt"
    write(path, 1)

    def full(*args):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(checkpoint_files.os, "fsync", full)
    with pytest.raises(OSError, match=r"No space left on device: '.*state\.pt'"):
        write(path, 2)
    assert read(path) == 1
    assert [f.name for f in tmp_path.iterdir()] == ["state.pt"]


def saved(folder, scores: list[float], **options) -> list[bool]:
    """Validate with these scores; return for each write of the best weights if the file existed meanwhile."""
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

    def record(path, *args, **kwargs):
        seen.append(path.is_file())
        real(path, *args, **kwargs)

    checkpoint.write_checkpoint = record
    try:
        engine.run([0], max_epochs=len(scores))
    finally:
        checkpoint.write_checkpoint = real
    return seen


def test_best_weights_exist_at_any_moment(tmp_path):
    assert saved(tmp_path, [0.5, 0.25, 0.75], key_metric_filename="model.pt") == [False, True]
    assert torch.load(tmp_path / "model.pt", weights_only=True)["weight"].item() == 0.75
    assert [f.name for f in tmp_path.iterdir()] == ["model.pt"]


def test_files_named_by_score_are_removed_as_by_monai(tmp_path):
    saved(tmp_path, [0.5, 0.75], key_metric_n_saved=1)
    assert len(list(tmp_path.iterdir())) == 1


def test_failed_run_saves_no_final_weights(tmp_path):
    def step(*_):
        raise RuntimeError("no more")

    engine = Engine(step)
    saver = CheckpointSaver(str(tmp_path), {"model": nn.Linear(1, 1)}, save_final=True, final_filename="model.pt")
    saver.attach(engine)
    with pytest.raises(RuntimeError, match="no more"):
        engine.run([0])
    assert list(tmp_path.iterdir()) == []
