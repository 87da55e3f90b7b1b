# SPDX-License-Identifier: Apache-2.0
"""Worker of a search with fake trainings, and the command of such a training."""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path


def train(config: Path, folder: Path) -> None:
    """Write a history as a training does; the value is a function of the learning rate."""
    import yaml

    content = yaml.safe_load(config.read_text())
    rate, state = content["learning_rate"], folder / "state.pt"
    done = int(state.read_text()) if state.is_file() else 0
    print(f"fake training {os.getpid()} starts after epoch {done}", flush=True)
    if content["seed"] == 99 and rate > 0.05:
        raise SystemExit("this learning rate breaks everything")
    rows = (folder / "history.csv").read_text() if done else "epoch,train_loss,val_mean_dice\n"
    for epoch in range(done + 1, content["epochs"] + 1):
        value = "nan" if content["seed"] == 98 else 1 - abs(rate - 0.01) * 5 - 0.1 / epoch
        rows += f"{epoch},0.5,{value}\n"
        (folder / ".new").write_text(rows)
        os.replace(folder / ".new", folder / "history.csv")
        state.write_text(str(epoch))
        while content["patience"] == 99 and epoch == 3 and not (folder.parents[1] / "go").exists():
            time.sleep(0.05)  # until the test has done what it does in the middle of a training
    (folder / "model.pt").write_text("weights")
    state.unlink()


def command(run_id: str, config: Path, options: dict) -> list[str]:
    """Command line of the fake in place of ``launch.bundle_command``."""
    return [sys.executable, "-S", __file__, str(config), str(options["ckpt_dir"])]


def work(arguments: dict) -> None:
    """Run ``search`` and print its message."""
    from scripts.experiments.search import search
    from scripts.experiments.suite import stages

    stages.bundle_command = command
    print(search(**arguments))


if __name__ == "__main__":
    import site

    site.main()
    train(Path(sys.argv[1]), Path(sys.argv[2]))
