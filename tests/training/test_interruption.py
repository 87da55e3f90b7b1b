# SPDX-License-Identifier: Apache-2.0
"""A training stopped or killed at any moment, and resumed, equals an uninterrupted one bitwise."""

from __future__ import annotations

import csv
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from ignite.engine import Events
from monai.bundle import ConfigWorkflow
from scripts.core.errors import InputError
from test_resume import TINY, same
from test_resume import workflow as tiny

# Two steps an epoch, so that a run can stop within one, and two passes over the two scans.
SHORT = {"batch_size": 4, "slices_per_volume": 2, "steps_per_epoch": 2, "lr_patience": 0, "warmup_epochs": 0}


def workflow(bundle: Path, data: Path, out: Path, **overrides) -> ConfigWorkflow:
    return tiny(bundle, data, out, **{**SHORT, **overrides})


def weights(work: ConfigWorkflow) -> dict[str, torch.Tensor]:
    return {k: v.clone() for k, v in work.parser.get_parsed_content("network").state_dict().items()}


def table(folder: Path) -> list[dict[str, str]]:
    rows = list(csv.DictReader((folder / "history.csv").open()))
    return [{k: v for k, v in row.items() if k != "seconds"} for row in rows]


def stopped(bundle: Path, data: Path, out: Path, where: str, epoch: int = 2, **overrides) -> None:
    """Train until a signal at a position of an epoch."""
    work = workflow(bundle, data, out, **overrides)
    trainer, evaluator = (work.parser.get_parsed_content(k) for k in ("train::trainer", "validate::evaluator"))

    def send(engine) -> None:
        step = (trainer.state.iteration - 1) % trainer.state.epoch_length + 1
        if trainer.state.epoch == epoch and (where == "validation" or step == {"within": 1, "last step": 2}[where]):
            os.kill(os.getpid(), signal.SIGTERM)

    (evaluator if where == "validation" else trainer).add_event_handler(Events.ITERATION_STARTED, send)
    with pytest.raises(SystemExit) as caught:
        work.run()
    assert caught.value.code == 128 + signal.SIGTERM


@pytest.fixture(scope="module")
def whole(bundle, phantom_set, tmp_path_factory) -> tuple[Path, dict[str, torch.Tensor]]:
    out = tmp_path_factory.mktemp("uninterrupted")
    work = workflow(bundle, phantom_set, out)
    work.run()
    return out, weights(work)


@pytest.mark.parametrize("where", ["within", "last step", "validation"])
def test_run_stopped_anywhere_is_resumed_bitwise(bundle, phantom_set, whole, tmp_path, where):
    stopped(bundle, phantom_set, tmp_path, where)
    assert (tmp_path / "state.pt").is_file()
    work = workflow(bundle, phantom_set, tmp_path)
    seen = []
    work.parser.get_parsed_content("train::trainer").add_event_handler(
        Events.ITERATION_STARTED, lambda e: seen.append((e.state.epoch, e.state.iteration))
    )
    work.run()
    assert seen[0] == {"within": (2, 4), "last step": (3, 5), "validation": (3, 5)}[where]
    assert same(weights(work), whole[1])
    assert same(torch.load(tmp_path / "model.pt"), torch.load(whole[0] / "model.pt"))
    assert same(torch.load(tmp_path / "kept" / "last.pt"), whole[1])
    assert table(tmp_path) == table(whole[0])
    assert not list(tmp_path.glob("state*"))


def test_signal_after_the_last_step_changes_nothing(bundle, phantom_set, whole, tmp_path):
    work = workflow(bundle, phantom_set, tmp_path)
    trainer = work.parser.get_parsed_content("train::trainer")
    trainer.add_event_handler(Events.COMPLETED, lambda _: os.kill(os.getpid(), signal.SIGTERM))  # after the state's own
    received: list[int] = []
    before = signal.signal(signal.SIGTERM, lambda number, _: received.append(number))
    try:
        work.run()
        assert not received
        os.kill(os.getpid(), signal.SIGTERM)
        assert received == [signal.SIGTERM]  # the previous handler is back
    finally:
        signal.signal(signal.SIGTERM, before)
    assert same(torch.load(tmp_path / "kept" / "last.pt"), whole[1])
    assert table(tmp_path) == table(whole[0])
    assert (tmp_path / "finished.pt").is_file()
    assert not list(tmp_path.glob("state*"))


def test_other_settings_are_refused_a_longer_run_is_not(bundle, phantom_set, whole, tmp_path):
    stopped(bundle, phantom_set, tmp_path, "within", epochs=2)
    work = workflow(bundle, phantom_set, tmp_path, learning_rate=0.5, epochs=3)
    with pytest.raises(
        InputError, match=r"state\.pt: the run was started with other settings.*learning_rate: 0\.001 and 0\.5"
    ) as caught:
        work.run()
    assert "epochs" not in str(caught.value)
    work = workflow(bundle, phantom_set, tmp_path, epochs=3)
    work.run()
    assert same(weights(work), whole[1])


def test_other_cases_are_refused(bundle, phantom_set, tmp_path):
    stopped(bundle, phantom_set, tmp_path, "within", epoch=1, epochs=1)
    content = json.loads((phantom_set / "datalist.json").read_text(encoding="utf-8"))
    sections = {
        k: [{n: str(phantom_set / f) for n, f in c.items() if n != "patient"} for c in v]
        for k, v in content.items()
        if isinstance(v, list)
    }
    sections["training"] = sections["training"][:1]
    (tmp_path / "datalist.json").write_text(json.dumps(sections))
    work = workflow(bundle, phantom_set, tmp_path, epochs=1, datalist=str(tmp_path / "datalist.json"))
    with pytest.raises(InputError, match=r"training cases: 2 and 1"):
        work.run()


def test_truncated_state_costs_one_epoch(bundle, phantom_set, whole, tmp_path, caplog):
    stopped(bundle, phantom_set, tmp_path, "within", epoch=3)
    state = tmp_path / "state.pt"
    state.write_bytes(state.read_bytes()[:-100])
    work = workflow(bundle, phantom_set, tmp_path)
    work.run()
    assert "its hash is wrong" in caplog.text
    assert same(weights(work), whole[1])


def test_command_killed_at_random_moments_is_resumed(bundle, phantom_set, whole, tmp_path):
    """SIGKILL, then SIGTERM to the process group, with workers; a run in this process, without workers, completes."""
    options = {
        **TINY, **SHORT, "num_workers": 1, "checkpoint_interval_minutes": 0.001, "device": "cpu",
        "dataset_dir": phantom_set, "output_dir": tmp_path, "ckpt_dir": tmp_path,
    }  # fmt: skip
    command = [sys.executable, "-W", "ignore", "-m", "monai.bundle", "run", "training", "--config_file", "configs/train.yaml"]
    command += [part for key, value in options.items() for part in (f"--{key}", str(value))]
    environment = {**os.environ, "OMP_NUM_THREADS": str(torch.get_num_threads()), "PYTHONUNBUFFERED": "1"}
    random = np.random.default_rng(8)
    for number, sent in enumerate((signal.SIGKILL, signal.SIGTERM)):
        log = tmp_path / f"log{number}.txt"
        with log.open("wb") as file:
            process = subprocess.Popen(
                command, cwd=bundle, stdout=file, stderr=subprocess.STDOUT, env=environment, start_new_session=True
            )
        limit = time.monotonic() + 120
        while b"training [" not in log.read_bytes() and process.poll() is None and time.monotonic() < limit:
            time.sleep(0.02)
        time.sleep(random.uniform(0, 0.8))
        if process.poll() is None:
            os.killpg(process.pid, sent)
        code = process.wait(120)
        if code == 0 or b"training ended after its" in log.read_bytes():  # before the signal, or while the process ended
            break
        assert code == (143 if sent == signal.SIGTERM else -signal.SIGKILL), log.read_text(encoding="utf-8", errors="replace")
    else:
        workflow(bundle, phantom_set, tmp_path).run()
    assert same(torch.load(tmp_path / "kept" / "last.pt"), whole[1])
    assert table(tmp_path) == table(whole[0])
