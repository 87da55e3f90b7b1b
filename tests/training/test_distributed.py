# SPDX-License-Identifier: Apache-2.0
"""Training in two processes equals that in one; an error in one process ends the job with its own line."""

from __future__ import annotations

import csv
import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from conftest import python_path
from forked import Forked, run_module, start
from forked_torchrun import launch
from monai.bundle import ConfigParser
from scripts.core.errors import InputError
from scripts.training.distributed import processes as parallel
from scripts.training.sampling import EpochSampler

HERE = Path(__file__).parent
TORCHRUN = [sys.executable, "-W", "ignore", "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2"]
DOUBLE = "{'dtype': '$torch.float64'}"
TINY = {
    "device": "cpu",
    "epochs": 5,
    "steps_per_epoch": 3,  # one and a half passes over four scans
    "warmup_epochs": 0,
    "validate::handlers::2::score_function": "$lambda engine: -engine.state.epoch",  # training stops early
    "patience": 2,
    "num_workers": 0,
    "batch_size": 8,
    "check_data": "header",
    "patch_size": [32, 48],
    "spacing": [4.0, 4.0, 4.0],
    "min_volume_ml": 0.0,
    "learning_rate": 0.01,
    "network_def::features": [4, 4, 4, 4, 4],
    "network_def::fusion_channels": 8,
    # Double precision: rounding errors stay far below the effect of a wrong gradient.
    "network": "$@network_def.to(torch.float64)",
    "train::trainer::to_kwargs": DOUBLE,
    "validate::evaluator::to_kwargs": DOUBLE,
    # Overlaps of probabilities change with every step.
    "validate::postprocessing::transforms": "$[monai.transforms.Lambdad('pred', lambda x: x[:2].softmax(0)), "
    "monai.transforms.Lambdad('label', lambda x: monai.networks.one_hot((x == 1).double(), 2, dim=0))]",
}


def call(arguments: list[str], bundle: Path) -> subprocess.CompletedProcess:
    """Run torchrun in the bundle."""
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": python_path(bundle)}
    utf_8 = {"text": True, "encoding": "utf-8", "errors": "replace"}
    return subprocess.run([*TORCHRUN, *arguments], cwd=bundle, env=environment, capture_output=True, timeout=600, **utf_8)


def ended(process: Forked, log: Path) -> str:
    """Output of a process after its end."""
    process.wait(300)
    return log.read_text(encoding="utf-8", errors="replace")


def training(files: list[str], data: Path, out: Path, **overrides) -> list[str]:
    """Arguments of ``monai.bundle run training``."""
    values = {**TINY, "dataset_dir": data, "output_dir": out, "ckpt_dir": out, **overrides}
    options = [part for key, value in values.items() for part in (f"--{key}", str(value))]
    configs = str([f if "/" in f else f"configs/{f}" for f in files])
    return ["-m", "monai.bundle", "run", "training", "--config_file", configs, *options]


def rows(out: Path) -> list[dict[str, float]]:
    with (out / "history.csv").open() as file:
        return [{k: float(v) for k, v in row.items() if k != "seconds"} for row in csv.DictReader(file)]


@pytest.fixture(scope="module")
def cases(phantom_set, tmp_path_factory) -> Path:
    """Four scans for training, and three, of unequal shares, for validation."""
    listed = json.loads((phantom_set / "datalist.json").read_text(encoding="utf-8"))
    everything = [case for part in ("training", "validation", "testing") for case in listed[part]]
    for case in everything:
        case |= {key: str(phantom_set / case[key]) for key in ("image", "label", "vertebrae") if key in case}
    validation, testing = (
        [{**case, "patient": case["patient"] + word} for case in everything[1:]] for word in (" again", " twice")
    )
    root = tmp_path_factory.mktemp("cases")
    (root / "datalist.json").write_text(json.dumps({"training": everything, "validation": validation, "testing": testing}))
    return root


@pytest.fixture(scope="module")
def two(bundle, cases, tmp_path_factory) -> tuple[Path, str]:
    out = tmp_path_factory.mktemp("two")
    done = call(training(["train.yaml", "multi_gpu_train.yaml"], cases, out), bundle)
    assert done.returncode == 0, done.stderr[-3000:]
    return out, done.stdout + done.stderr


def test_two_processes_equal_one_with_the_same_batch(bundle, cases, two, tmp_path):
    module, arguments = "monai.bundle", training(["train.yaml"], cases, tmp_path)[2:]
    process = start(tmp_path / "log.txt", run_module, module, arguments, folder=bundle)
    printed = ended(process, tmp_path / "log.txt")
    assert process.poll() == 0, printed[-3000:]
    one, other = rows(tmp_path), rows(two[0])
    assert len(one) == len(other) < TINY["epochs"]  # early stopping, too
    for a, b in zip(one, other, strict=True):
        assert a == pytest.approx(b, rel=1e-6)
    assert len({row["train_loss"] for row in one}) == len(one)
    assert len({row["val_mean_iou"] for row in one}) == len(one)


def test_one_process_writes_and_logs(two):
    out, printed = two
    assert len(list(out.glob("events.out.tfevents.*"))) == 1
    assert {p.suffix for p in out.iterdir()} <= {".csv", ".json", ".png", ".pt", ".0", ""}
    import torch

    state = torch.load(out / "model.pt", weights_only=True)
    assert not any(name.startswith("module.") for name in state)
    assert printed.count("epoch 1 of 5: loss") == 1


def test_shards_of_a_batch_equal_the_global_batch(bundle, tmp_path):
    process = start(tmp_path / "log.txt", launch, [str(HERE / "several_processes.py")], folder=bundle)
    printed = ended(process, tmp_path / "log.txt")
    assert process.poll() == 0, printed[-3000:]
    found = re.findall(r"^(\w+) (\d) (\S+)$", printed, re.MULTILINE)
    assert {(name, rank) for name, rank, _ in found} == {
        (name, rank) for name in ("normalisation", "step", "distillation", "metrics", "buffers") for rank in "01"
    }
    for name, _, worst in found:
        assert float(worst) < (1e-6 if name in ("distillation", "metrics") else 1e-9), f"{name}: {worst}"


BREAK = """
from pathlib import Path

import torch.distributed as dist
from ignite.engine import Events

class Break:
    def attach(self, engine):
        engine.add_event_handler(Events.ITERATION_COMPLETED(once=2), self.end)

    def end(self, engine):
        if dist.get_rank() == 1:
            Path(__file__).with_name("raised").touch()
            raise ValueError("the disk of process 1 is full")
"""


def test_error_in_one_process_ends_the_job_with_its_line(bundle, cases, tmp_path):
    (tmp_path / "broken.py").write_text(BREAK)
    (tmp_path / "break.yaml").write_text('"+train::handlers":\n  - _target_: broken.Break\n')
    files = ["train.yaml", str(tmp_path / "break.yaml"), "multi_gpu_train.yaml"]
    path = python_path(bundle, tmp_path)
    process = start(tmp_path / "log.txt", launch, training(files, cases, tmp_path / "out"), folder=bundle, PYTHONPATH=path)
    printed = ended(process, tmp_path / "log.txt")
    assert process.poll() != 0
    assert time.time() - (tmp_path / "raised").stat().st_mtime < 60
    assert re.search(r"process 1 of 2 on \S+: ended by ValueError: the disk of process 1 is full", printed)
    assert not (tmp_path / "out" / "model.pt").exists()


def codes(n: int, batch: int, count: int, epoch: int = 3) -> list[list[list[int]]]:
    """Batches of every process of an epoch."""
    found = []
    for rank in range(count):
        sampler = EpochSampler(range(n), seed=5, batch_size=batch, rank=rank, world_size=count)
        sampler.epoch = epoch
        drawn = list(sampler)
        assert len(sampler) == len(drawn)
        found.append([drawn[i : i + batch] for i in range(0, len(drawn), batch)])
    return found


@pytest.mark.parametrize(("n", "batch", "count"), [(12, 2, 2), (8, 1, 4), (10, 2, 2), (14, 4, 2), (11, 2, 2), (1, 1, 3), (7, 2, 3)])
def test_processes_share_every_step_of_one(n, batch, count):
    shared, (one,) = codes(n, batch, count), codes(n, batch * count, 1)
    assert len({tuple(map(len, batches)) for batches in shared}) == 1
    for k, step in enumerate(one):
        together = [code for batches in shared for code in batches[k]]
        assert together[: len(step)] == step
        assert len(together) - len(step) < count  # those of the last step that come twice
        assert set(together) <= {code for batch in one for code in batch}
    assert np.ptp([len(batches) for batches in shared]) == 0


@pytest.mark.parametrize("values", [{"batch_size": 0}, {"rank": 2, "world_size": 2}])
def test_sampler_with_wrong_rank_or_batch_is_refused(values):
    with pytest.raises(ValueError, match="EpochSampler: batch_size="):
        EpochSampler(range(3), **values)


def test_missing_torchrun_is_one_line_with_the_command(monkeypatch):
    monkeypatch.delenv("RANK", raising=False)
    with pytest.raises(InputError, match=r"multi_gpu_train\.yaml: .* torchrun --nproc_per_node=2 -m monai\.bundle run"):
        parallel.start("cpu")


@pytest.mark.parametrize(("backend", "device"), [("nccl", "cpu"), ("mpi", "cpu")])
def test_wrong_backend_is_one_line(monkeypatch, backend, device):
    for name in ("RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT"):
        monkeypatch.setenv(name, "0")
    with pytest.raises(InputError, match=f"backend='{backend}', device=cpu: must be"):
        parallel.start(device, backend)


def test_indivisible_batch_is_one_line(monkeypatch):
    monkeypatch.setattr(parallel, "world_size", lambda: 2)
    assert parallel.volumes_per_process(16, 4) == 2
    with pytest.raises(InputError, match=r"batch_size=12 .* 3 volume\(s\) .* 2 processes; set --batch_size 16"):
        parallel.volumes_per_process(12, 4)


def test_more_processes_than_gpus_are_refused(monkeypatch):
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    monkeypatch.setattr("torch.cuda.device_count", lambda: 2)
    monkeypatch.setenv("LOCAL_RANK", "2")
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "4")
    with pytest.raises(InputError, match=r"4 processes .* 2 GPU\(s\); set --nproc_per_node=2"):
        parallel.local_device()


def test_every_process_has_a_case(monkeypatch):
    monkeypatch.setattr(parallel, "world_size", lambda: 3)
    monkeypatch.setattr(parallel, "rank", lambda: 1)
    assert parallel.shard("abcde") == ["b", "e"]
    assert parallel.shard("ab") == ["a", "b"]
    assert parallel.shard("") == []


@pytest.mark.parametrize(
    ("overlays", "wrapped"),
    [
        ([], {"network": "@network", "loss_function": "@loss"}),
        (["vertebra_loss.yaml"], {"network": "@network", "loss_function": "@vertebra_loss"}),
        (["vertebra_loss.yaml", "distillation.yaml"], {"network": "@network", "loss_function": "@distillation_loss"}),
        (
            ["network/spinegan.yaml"],
            {
                "g_network": "@network",
                "d_network": "@discriminator",
                "g_loss_function": "@adversarial_loss",
                "recon_loss_function": "@loss",
            },
        ),
    ],
)
def test_networks_and_losses_of_the_trainer_are_wrapped_once(bundle, overlays, wrapped):
    parser = ConfigParser()
    parser.read_config([str(bundle / "configs" / f) for f in ("train.yaml", *overlays)])
    before = dict(parser["train::trainer"])
    parser["wrap"] = {"_target_": "scripts.training.distributed.synchronous.distribute_trainer", "sync_batchnorm": False}
    for _ in range(2):
        parser.parse()
        parser.get_parsed_content("wrap")
    trainer = parser["train::trainer"]
    for name, content in wrapped.items():
        kind = "distributed" if "network" in name else "GlobalBatchLoss"
        assert trainer[name]["_target_"] == f"scripts.training.distributed.synchronous.{kind}"
        assert content in (trainer[name].get("network"), trainer[name].get("loss"))
        assert trainer[name].get("sync_batchnorm", False) is False
    assert {k for k in trainer if trainer[k] != before[k]} == set(wrapped)


@pytest.mark.skipif(os.name != "posix", reason="a batch script")
@pytest.mark.parametrize(
    ("job", "signal", "status", "queued"),
    [("exit 0", False, 0, False), ("exit 3", False, 3, False), ("sleep 20", True, None, True)],
)
def test_batch_script_requeues_only_after_a_signal(tmp_path, job, signal, status, queued):
    text = (HERE.parents[1] / "docs" / "clusters.md").read_text(encoding="utf-8")
    (script,) = re.findall(r"```bash\n(#!/bin/bash.*?)```", text, re.DOTALL)
    (tmp_path / "bundle").mkdir()
    ended = tmp_path / "ended"
    stubs = {
        "srun": f'trap "touch {ended}; exit 1" TERM\n{job} &\nwait $!',
        "scontrol": f'[ "$1" = requeue ] && touch {tmp_path}/queued || echo node1',
    }
    for name, body in stubs.items():
        (tmp_path / name).write_text(f"#!/bin/bash\n{body}\n")
        (tmp_path / name).chmod(0o755)
    environment = {"PATH": f"{tmp_path}:{os.environ['PATH']}", "SLURM_JOB_ID": "7", "SLURM_NNODES": "2"}
    process = subprocess.Popen(["bash", "-c", script], cwd=tmp_path, env=environment)
    if signal:
        time.sleep(1.0)
        process.terminate()
    found = process.wait(timeout=30)
    assert found == status if status is not None else found != 0
    assert (tmp_path / "queued").exists() == queued
    assert ended.exists() == signal


def test_two_processes_stop_at_one_step_and_resume(bundle, cases, two, tmp_path):
    arguments = training(["train.yaml", "multi_gpu_train.yaml"], cases, tmp_path, checkpoint_interval_minutes=1000.0)
    first = start(tmp_path / "first.txt", launch, arguments, folder=bundle)
    limit = time.monotonic() + 300
    while not (tmp_path / "state.pt").is_file() and time.monotonic() < limit:
        time.sleep(0.01)
    first.send_signal(signal.SIGTERM)
    printed = ended(first, tmp_path / "first.txt")
    assert first.poll() != 0
    assert printed.count("SIGTERM: training stopped in epoch") == 1
    assert (tmp_path / "state.pt").is_file()
    again = start(tmp_path / "again.txt", launch, arguments, folder=bundle)
    printed = ended(again, tmp_path / "again.txt")
    assert again.poll() == 0, printed[-3000:]
    assert rows(tmp_path) == rows(two[0])
