# SPDX-License-Identifier: Apache-2.0
"""One line for every end of a training: a case, a worker, a disk, a non-finite loss, a signal, or the last epoch."""

from __future__ import annotations

import errno
import json
import logging
import os
import shutil
import signal
from pathlib import Path

import pytest
import torch
from ignite.engine import Engine, Events
from monai.data import DataLoader, Dataset
from monai.transforms import LoadImaged
from scripts.core.errors import InputError
from scripts.training.fit import end_of_training, explain, fit, useless_weights
from scripts.training.nonfinite import NonFiniteLoss
from scripts.training.sampling import EpochSampler, SeededDataset
from scripts.training.shutdown import IgnoreSignals
from test_resume import workflow


def loader(data: list, transform, workers: int) -> DataLoader:
    items = Dataset(data, transform)
    return DataLoader(
        SeededDataset(items), sampler=EpochSampler(items, shuffle=False), num_workers=workers, worker_init_fn=IgnoreSignals()
    )


def trainer(data, step=lambda *_: {"loss": 0.0}) -> Engine:
    """Engine whose ``run()`` has no arguments, as MONAI's."""
    engine = Engine(step)
    engine.run = lambda: Engine.run(engine, data, max_epochs=2)
    return engine


@pytest.mark.parametrize("workers", [0, 1])
def test_unreadable_file_is_one_line(tmp_path, workers):
    (tmp_path / "scan.nii.gz").write_bytes(b"no image")
    data = loader([{"image": str(tmp_path / "scan.nii.gz")}], LoadImaged("image"), workers)
    with pytest.raises(InputError, match=r"scan\.nii\.gz: .*num_workers 0") as caught:
        fit(trainer(data))
    assert len(str(caught.value).splitlines()) == 1


def kill(item):
    os.kill(os.getpid(), signal.SIGKILL)


def test_killed_worker_is_one_line():
    with pytest.raises(InputError, match=r"a data worker \(pid \d+\) was ended by the system \(Killed\).*--num_workers"):
        fit(trainer(loader([{"image": "a"}], kill, 1)))


def test_known_causes_have_a_remedy_others_a_traceback(tmp_path):
    full = OSError(errno.ENOSPC, "No space left on device", str(tmp_path / "state.pt"))
    assert (
        explain(full) == f"{tmp_path / 'state.pt'}: No space left on device; free space there and rerun the same command to resume"
    )
    assert "--batch_size" in str(explain(torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB")))
    assert explain(ZeroDivisionError("x")) is None
    with pytest.raises(ZeroDivisionError):
        fit(trainer([0], lambda *_: 1 / 0))


def test_nonfinite_loss_ends_the_run_and_saves_the_batch(tmp_path):
    losses = iter([1.0, 1.0, float("nan"), 1.0])
    batch = {
        "image": torch.tensor([[[[0.0, float("inf")]]], [[[0.25, 0.5]]]]),
        "label": torch.zeros(2, 1, 1, 2),
        "case": ["/data/a.nii.gz", "/data/b.nii.gz"],
    }
    engine = trainer([batch, batch], lambda *_: {"loss": torch.tensor(next(losses))})
    NonFiniteLoss(str(tmp_path)).attach(engine)
    completed = []
    engine.add_event_handler(Events.COMPLETED, lambda: completed.append(1))
    with pytest.raises(
        InputError, match=r"loss was nan in epoch 2, step 3; cases: /data/a.nii.gz, /data/b.nii.gz; .*--learning_rate"
    ):
        fit(engine)
    assert not completed  # handlers of a regular end do not run
    report = json.loads((tmp_path / "nonfinite_batch.json").read_text())
    assert report["samples"][0]["image_not_finite"] == 1
    assert report["samples"][1]["image_range"] == [0.25, 0.5]
    kept = torch.load(tmp_path / "nonfinite_batch.pt", weights_only=True)
    assert torch.equal(kept["image"], batch["image"])
    assert kept["case"] == batch["case"]


def test_full_disk_does_not_hide_a_nonfinite_loss(tmp_path):
    engine = trainer([{}], lambda *_: {"loss": float("inf")})
    (tmp_path / "file").write_text("")
    NonFiniteLoss(str(tmp_path / "file")).attach(engine)
    with pytest.raises(InputError, match="the loss was inf in epoch 1"):
        fit(engine)


def test_regular_end_names_the_best_epoch():
    engine, evaluator = Engine(lambda *_: None), Engine(lambda *_: None)
    engine.state.epoch, engine.state.max_epochs = 7, 20
    evaluator.state.key_metric_name, evaluator.state.best_metric, evaluator.state.best_metric_epoch = ("val_mean_dice", 0.75, 2)
    assert "epoch 7 of 20: no improvement in validation" in end_of_training(engine, evaluator)
    assert end_of_training(engine, evaluator).endswith("best val_mean_dice 0.7500 in epoch 2")
    engine.state.epoch = 20
    assert end_of_training(engine, None) == "training ended after its 20 epochs"


@pytest.mark.parametrize(
    ("best", "metrics", "words"),
    [
        (0.0, {"val_fractured_marked": 0.0, "val_healthy_marked": 0.0}, "THE WEIGHTS MARK NOTHING: val_fracture_dice was 0"),
        (0.0, {"val_fractured_marked": 0.5, "val_healthy_marked": 0.0}, "THE WEIGHTS MARK NO FRACTURE"),
        (0.2, {"val_fractured_marked": 0.5, "val_healthy_marked": 0.0}, None),
    ],
)
def test_weights_that_mark_nothing_are_named_at_the_end(best, metrics, words, caplog):
    engine, evaluator = trainer([0]), Engine(lambda *_: None)
    evaluator.state.key_metric_name, evaluator.state.best_metric, evaluator.state.best_metric_epoch = "val_fracture_dice", best, 1
    evaluator.state.metrics = metrics
    with caplog.at_level("INFO"):
        fit(engine, evaluator)
    last = caplog.records[-1]
    assert (last.levelname == "WARNING") == (words is not None)
    assert words is None or (words in last.getMessage() and "--epochs" in last.getMessage())
    assert "{" not in last.getMessage()


def test_weights_without_a_score_are_not_called_useless():
    engine = Engine(lambda *_: None)
    assert useless_weights(None) is None
    assert useless_weights(engine) is None
    engine.state.key_metric_name, engine.state.best_metric, engine.state.best_metric_epoch = "a", -1, -1
    assert useless_weights(engine) is None


def test_runs_of_engines_are_no_lines_of_the_log(caplog):
    engine = trainer([0])
    engine.logger.propagate = True
    with caplog.at_level("INFO"):
        fit(engine)
    assert [r.name for r in caplog.records] == ["scripts.training.fit"]


def test_signal_handlers_are_restored_after_an_error():
    before = signal.getsignal(signal.SIGTERM)

    def step(*_):
        signal.signal(signal.SIGTERM, lambda *_: None)
        return 1 / 0

    with pytest.raises(ZeroDivisionError):
        fit(trainer([0], step))
    assert signal.getsignal(signal.SIGTERM) is before


def test_case_names_are_files(tmp_path):
    items = SeededDataset(Dataset([{"image": Path("/a/b.nii.gz"), "x": 1}]))
    assert items[0]["case"] == "/a/b.nii.gz"


def test_final_error_is_not_logged_twice(tmp_path, caplog):
    from monai.handlers import StatsHandler

    engine = trainer([0], lambda *_: open(tmp_path / "none" / "file"))  # noqa: SIM115
    logging.getLogger("monai.handlers.StatsHandler").propagate = True
    StatsHandler().attach(engine)
    with caplog.at_level("INFO"), pytest.raises(InputError, match=r"none/file: No such file"):
        fit(engine)
    assert "No such file" not in caplog.text
    assert "Traceback" not in caplog.text


@pytest.mark.slow
def test_compiled_training_saves_plain_checkpoints(bundle, phantom_set, tmp_path):
    if shutil.which("g++") is None and shutil.which("c++") is None:
        pytest.skip("torch.compile needs a C++ compiler on a CPU")
    run = workflow(bundle, phantom_set, tmp_path, compile=True, epochs=2, slices_per_volume=3)
    plain = set(run.parser.get_parsed_content("network_def").state_dict())
    run.run()
    assert set(torch.load(tmp_path / "model.pt", weights_only=True)) == plain
    rows = (tmp_path / "history.csv").read_text().splitlines()
    assert len(rows) == 3
