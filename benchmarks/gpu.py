# SPDX-License-Identifier: Apache-2.0
"""Measure a GPU: correctness, training steps and inference of this bundle, in a given time, without network or installation.

    python benchmarks/gpu.py --minutes 6                       # results in runs/gpu/gpu.md and gpu.json
    python benchmarks/gpu.py --minutes 2.5                     # the most important rows
    python benchmarks/gpu.py --parts machine,training          # some parts
    python benchmarks/gpu.py --device cpu                      # everything small, for tests

It requires PyTorch 2.8 or later, numpy, scipy, scikit-image, nibabel, monai, pytorch-ignite and fire. All data are synthetic.
Every part runs in a process of its own with a time limit of its own; a part that fails or runs over reports the reason, and the
others continue. Results are written after every row. Libraries are imported once and parts are forked from there; the import is
not part of any table. Warm-up and compilation are apart from what is counted.
"""

from __future__ import annotations

import importlib
import json
import os
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
for folder in (HERE, HERE.parent / "bundle"):
    if str(folder) not in sys.path:
        sys.path.insert(0, str(folder))

from gpu_parts.launch import Part, Process, execute  # noqa: E402
from gpu_parts.report import markdown, write_results  # noqa: E402
from gpu_parts.settings import Settings  # noqa: E402

# Share of the remaining time that a part may take, divided by the shares of it and the parts after it; function.
PARTS: dict[str, tuple[float, str]] = {
    "machine": (1.0, "gpu_parts.machine:run"),
    "training": (3.0, "gpu_parts.training:shipped"),
    "compiled": (4.0, "gpu_parts.training:compiled"),
    "inference": (5.0, "gpu_parts.inference:short_scan"),
    "correctness": (3.0, "gpu_parts.correctness:run"),
    "full_width": (4.0, "gpu_parts.training:full_width"),
    "long_inference": (4.0, "gpu_parts.inference:long_scan"),
}
SHORT = ("machine", "training", "compiled", "inference", "correctness")  # below SHORT_MINUTES
SHORT_MINUTES = 4.0
SCANS = "scans"  # made beside the first parts
LEAST = 3.0  # seconds that a part is started with


def resolve(target: str | Part) -> Part:
    """Return the function of a part."""
    if callable(target):
        return target
    module, name = target.split(":")
    return getattr(importlib.import_module(module), name)


def choose(parts: str | Sequence[str] | None, minutes: float) -> list[str]:
    """Names of the parts to run, in order.

    Raises:
        SystemExit: for an unknown name.
    """
    if parts is None:
        return [p for p in PARTS if minutes >= SHORT_MINUTES or p in SHORT]
    names = parts.split(",") if isinstance(parts, str) else list(parts)
    unknown = [n for n in names if n not in PARTS]
    if unknown:
        raise SystemExit(f"--parts {','.join(names)}: {unknown[0]} is unknown; must be of {', '.join(PARTS)}")
    return [p for p in PARTS if p in names]


class Run:
    """Parts one after the other, with their results.

    Args:
        settings: settings of the run.
        targets: weight and function of every part, in order.
        background: function that runs beside the parts; None for none.
        fresh: a new interpreter for every part.
    """

    def __init__(
        self,
        settings: Settings,
        targets: dict[str, tuple[float, str | Part]],
        background: str | Part | None = None,
        fresh: bool = False,
    ) -> None:
        self.settings, self.targets, self.background, self.fresh = settings, targets, background, fresh
        self.begin, self.folder = time.time(), Path(settings.out)
        self.end = self.begin + 60 * settings.minutes
        self.parts: dict[str, dict[str, Any]] = {name: {"part": name, "state": "waiting"} for name in targets}
        self.rows: dict[str, list[dict]] = {}

    def results(self) -> dict[str, Any]:
        """Everything measured so far."""
        summary = f"{self.settings.minutes:g} minutes were allowed, {time.time() - self.begin:.0f} s have passed."
        rows = [{"part": part, **r} for part, found in self.rows.items() for r in found]
        return {
            "summary": summary,
            "device": self.settings.device,
            "minutes": self.settings.minutes,
            "parts": list(self.parts.values()),
            "rows": rows,
        }

    def write(self) -> None:
        """Write the results so far."""
        write_results(self.folder, self.results())

    def __call__(self) -> dict[str, Any]:
        """Run all parts and return the results."""
        self.folder.mkdir(parents=True, exist_ok=True)
        self.write()
        functions = self._import()
        beside = None
        if self.background is not None:
            beside = Process(SCANS, resolve(self.background), self._settings(self.end), str(Path(__file__)), self.fresh)
        try:
            names = list(self.targets)
            for number, name in enumerate(names):
                left = self.end - time.time()
                share = self.targets[name][0] / sum(self.targets[n][0] for n in names[number:])
                if name not in functions:
                    continue
                if left < LEAST:
                    self.parts[name].update(state="left out", note="no time is left; allow more minutes or choose parts")
                    continue
                self._run(name, functions[name], min(max(share * left, LEAST), left))
                if beside is not None and not beside.poll() and (reason := beside.result()[1]):
                    self.parts[SCANS] = {"part": SCANS, "state": "failed", "note": reason}
        finally:
            if beside is not None:
                beside.kill()
            self.write()
        return self.results()

    def _settings(self, deadline: float) -> Settings:
        rates = {r["row"]["dtype"]: r["row"]["operations_per_second"] for r in reversed(self.rows.get("machine", []))
                 if r["table"] == "convolution" and "operations_per_second" in r["row"]}  # fmt: skip
        return Settings(self.settings.device, self.settings.minutes, self.settings.out, deadline, rates)

    def _import(self) -> dict[str, Part]:
        """Functions of the parts; a part whose libraries are missing is reported."""
        begin, functions = time.time(), {}
        for name, (_, target) in self.targets.items():
            try:
                functions[name] = resolve(target)
            except Exception as error:
                self.parts[name].update(state="failed", note=f"{type(error).__name__}: {str(error).splitlines()[0][:200]}")
        row = {"fact": "import of all libraries, once", "value": f"{time.time() - begin:.1f} s"}
        self.rows["import"] = [{"table": "machine", "row": row}]
        return functions

    def _run(self, name: str, part: Part, limit: float) -> None:
        state = self.parts[name]
        state.update(state="running", limit_s=round(limit))
        print(f"{time.time() - self.begin:5.0f} s  {name}, at most {limit:.0f} s", file=sys.stderr, flush=True)
        process = Process(name, part, self._settings(time.time() + limit), str(Path(__file__)), self.fresh)
        size = -1
        try:
            while process.poll():
                current = process.rows.path.stat().st_size if process.rows.path.exists() else 0
                if current != size:
                    size = current
                    self.rows[name] = process.result()[0]
                    self.write()
                time.sleep(0.05)
        finally:
            process.kill()
        self.rows[name], reason = process.result()
        state.update(state="failed" if reason else "done", seconds=round(time.time() - process.begin, 1))
        if reason:
            state["note"] = f"{reason}; {self.folder / 'parts' / f'{name}.log'}"
            print(f"{name}: {reason}", file=sys.stderr, flush=True)
        self.write()


def main(
    minutes: float = 6.0, parts: str | Sequence[str] | None = None, device: str = "cuda", out: str = "runs/gpu", fresh: bool = False
) -> None:
    """Measure a device and print the tables.

    Args:
        minutes: time of the whole run, imports included; it is divided among the parts, and what one leaves is for the next.
        parts: names of the parts, separated by commas; by default those that fit.
        device: PyTorch device; cpu makes everything small.
        out: folder of gpu.md, gpu.json, logs and scans.
        fresh: a new interpreter for every part, in place of a fork.
    """
    if minutes <= 0:
        raise SystemExit(f"--minutes {minutes}: must be above 0")
    if not device.startswith(("cuda", "cpu")):
        raise SystemExit(f"--device {device}: must be cuda, cuda:1 or cpu")
    # Without it a look for a GPU would initialise CUDA, which cannot be used after a fork then.
    os.environ.setdefault("PYTORCH_NVML_BASED_CUDA_CHECK", "1")
    names = choose(parts, minutes)
    targets: dict[str, tuple[float, str | Part]] = {n: PARTS[n] for n in names}
    scans = "gpu_parts.scans:run" if any("inference" in n or n == "correctness" for n in names) else None
    run = Run(Settings(device, minutes, str(Path(out).resolve())), targets, scans, fresh)
    print(markdown(run()))


def child(name: str, settings: dict[str, Any]) -> None:
    """Run one part in this interpreter; ``main`` starts it."""
    values = Settings(**(settings if isinstance(settings, dict) else json.loads(settings)))
    sys.exit(execute(name, resolve("gpu_parts.scans:run" if name == SCANS else PARTS[name][1]), values))


if __name__ == "__main__":
    import fire

    if sys.argv[1:2] == ["child"]:
        child(sys.argv[2], json.loads(sys.argv[3]))
    else:
        fire.Fire(main)
