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
import signal
import sys
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
SCRIPT = str(HERE / "gpu.py")
for folder in (HERE, HERE.parent / "bundle"):
    if str(folder) not in sys.path:
        sys.path.insert(0, str(folder))

from gpu_parts.launch import Part, Process, execute  # noqa: E402
from gpu_parts.report import markdown, write_results  # noqa: E402
from gpu_parts.settings import SHORT_RUN, Settings  # noqa: E402

# Share of the remaining time that a part may take, divided by the shares of it and the parts after it; function.
PARTS: dict[str, tuple[float, str]] = {
    "machine": (1.0, "gpu_parts.machine:run"),
    "training": (5.0, "gpu_parts.training:shipped"),
    "inference": (6.0, "gpu_parts.inference:short_scan"),
    "compiled": (5.0, "gpu_parts.training:compiled"),
    "correctness": (2.0, "gpu_parts.correctness:run"),
    "full_width": (4.0, "gpu_parts.training:full_width"),
    "long_inference": (5.0, "gpu_parts.inference:long_scan"),
    "cohort": (5.0, "gpu_parts.inference:cohort"),
}
ENOUGH = {
    "machine": 20.0,
    "training": 75.0,  # the first step of a process took 20 to 35 s on an H200
    "inference": 90.0,
    "compiled": 30.0,
}  # seconds that a part may take even in a short run
SHORT = ("machine", "training", "inference", "compiled", "correctness")  # of a short run, see Settings.short
# Run beside the parts: simulated scans, and in short runs the compiler.
BESIDE = {"scans": "gpu_parts.scans:run", "compiler": "gpu_parts.training:prepare"}
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
        return [p for p in PARTS if minutes >= SHORT_RUN or p in SHORT]
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
        beside: functions that run beside the parts, by name.
        fresh: a new interpreter for every part.
    """

    def __init__(
        self,
        settings: Settings,
        targets: dict[str, tuple[float, str | Part]],
        beside: dict[str, str | Part] | None = None,
        fresh: bool = False,
    ) -> None:
        self.settings, self.targets, self.beside, self.fresh = settings, targets, dict(beside or {}), fresh
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
        beside: list[Process] = []
        try:
            for name in list(self.beside):
                if (function := self._resolve(name, self.beside[name])) is not None:
                    beside.append(Process(name, function, self._settings(self.end), SCRIPT, self.fresh))
            for number, (name, (weight, _)) in enumerate(self.targets.items()):
                left = self.end - time.time()
                share = weight / sum(w for w, _ in list(self.targets.values())[number:])
                if name not in functions:
                    continue
                if left < LEAST:
                    self.parts[name].update(state="left out", note="no time is left; allow more minutes or choose parts")
                    continue
                self._run(name, functions[name], min(max(share * left, ENOUGH.get(name, LEAST)), left))
                self._collect(beside)
        finally:
            for process in beside:
                process.kill()
            self.write()
        return self.results()

    def _collect(self, beside: list[Process]) -> None:
        """Rows and failures of what runs beside the parts."""
        for process in beside:
            running = process.poll()
            self.rows[process.name], reason = process.result()
            if reason and not running:
                self.parts[process.name] = {"part": process.name, "state": "failed", "note": reason}

    def _settings(self, deadline: float) -> Settings:
        rates = {r["row"]["dtype"]: r["row"]["operations_per_second"] for r in reversed(self.rows.get("machine", []))
                 if r["table"] == "convolution" and "operations_per_second" in r["row"]}  # fmt: skip
        return replace(self.settings, deadline=deadline, rates=rates, prepared="compiler" in self.beside)

    def _import(self) -> dict[str, Part]:
        """Functions of the parts; a part whose libraries are missing is reported."""
        begin, functions = time.time(), {}
        for name, (_, target) in self.targets.items():
            if (function := self._resolve(name, target)) is not None:
                functions[name] = function
        row = {"fact": "import of all libraries, once", "value": f"{time.time() - begin:.1f} s"}
        self.rows["import"] = [{"table": "machine", "row": row}]
        return functions

    def _resolve(self, name: str, target: str | Part) -> Part | None:
        try:
            return resolve(target)
        except Exception as error:
            lines = str(error).splitlines() or [""]
            self.parts[name] = {"part": name, "state": "failed", "note": f"{type(error).__name__}: {lines[0][:200]}"}
            return None

    def _run(self, name: str, part: Part, limit: float) -> None:
        state = self.parts[name]
        state.update(state="running", limit_s=round(limit))
        print(f"{time.time() - self.begin:5.0f} s  {name}, at most {limit:.0f} s", file=sys.stderr, flush=True)
        process = Process(name, part, self._settings(time.time() + limit), SCRIPT, self.fresh)
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
            self.fresh |= self.settings.cuda and not self.rows[name]  # in case the fork was the reason
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
    settings = Settings(device, minutes, str(Path(out).resolve()))
    beside: dict[str, str | Part] = {}
    if {"inference", "long_inference", "correctness", "cohort"} & set(names):
        beside["scans"] = BESIDE["scans"]
    if "compiled" in names and settings.short and settings.cuda:
        beside["compiler"] = BESIDE["compiler"]
        os.environ.setdefault("TORCHINDUCTOR_COMPILE_THREADS", "4")
    os.environ.setdefault("TORCHINDUCTOR_CACHE_DIR", str(Path(settings.out) / "compiler_cache"))
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # ends the parts, too
    print(markdown(Run(settings, targets, beside, fresh)()))


def child(name: str, settings: dict[str, Any]) -> None:
    """Run one part in this interpreter; ``main`` starts it."""
    values = Settings(**(settings if isinstance(settings, dict) else json.loads(settings)))
    sys.exit(execute(name, resolve(BESIDE[name] if name in BESIDE else PARTS[name][1]), values))


if __name__ == "__main__":
    import fire

    if sys.argv[1:2] == ["child"]:
        child(sys.argv[2], json.loads(sys.argv[3]))
    else:
        fire.Fire(main)
