# SPDX-License-Identifier: Apache-2.0
"""Stages of a run without a process, for tests of the order and the time of suites."""

from __future__ import annotations

import time

import torch
from scripts.experiments.launch import Outcome
from scripts.experiments.suite.record import environment, read_record, write_record
from scripts.experiments.suite.stages import TRAINING, RunError


class StageStub:
    """Stages that write their products without a process.

    Attributes:
        seconds: time of a stage.
        start: start of the last one.
        calls: run and stage of every call.
    """

    def __init__(self) -> None:
        self.seconds, self.start, self.calls = 0.0, 0.0, list[tuple[str, str]]()

    def run_stage(self, stage, folder, context, fold=None, poll=None) -> None:
        self.calls.append((folder.name, stage.name))
        self.start = time.monotonic()
        end = self.start + self.seconds
        while time.monotonic() < end:
            if not poll():
                raise RunError(stage.name, Outcome(-15, 1.0, None, True), folder / "log.txt")
            time.sleep(0.01)
        (folder / stage.product).parent.mkdir(exist_ok=True)
        if stage is TRAINING:
            torch.save({"w": torch.randn(4, 3)}, folder / stage.product)
            (folder / "history.csv").write_text("epoch,train_loss,seconds,val_mean_dice\n1,1.0,2.0,0.5\n")
        else:
            (folder / stage.product).write_text("case,patient,dice,iou,nsd\nc1,p1,0.5,0.4,0.4\n")
        record = {**read_record(folder), **environment()}
        write_record(folder, {**record, "stages": {**record.get("stages", {}), stage.name: {"done": True}}, "state": "running"})
