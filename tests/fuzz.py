# SPDX-License-Identifier: Apache-2.0
# ruff: noqa: E402
"""Fuzz of everything that reads what others wrote: scans, folders, datalists, weights and config values. Not the network.

A case is one damaged input and the one answer that is right: the content that an independent reader finds, or one line that names
the file. Classes: read alike, refused in one line, traceback, hang, silently wrong. The last three must not occur.

    python tests/fuzz.py --cases 10000 --seed 1
"""

from __future__ import annotations

import argparse
import itertools
import logging
import math
import random
import shutil
import signal
import sys
import tempfile
import time
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

sys.path[:0] = [str(Path(__file__).parent), str(Path(__file__).parents[1] / "bundle")]

from fuzz_kinds import KINDS, WrongError
from scripts.core.errors import InputError
from scripts.io.dicom import load_itk, load_packages

SECONDS = 20.0  # of processor time, whatever else the machine does
CLASSES = ("read alike", "refused in one line", "traceback", "hang", "silently wrong")


class HangError(BaseException):
    """Case that runs longer than ``SECONDS``."""


@dataclass
class Report:
    """Number of cases by kind and class, and a line for each that must not occur."""

    counts: Counter = field(default_factory=Counter)
    faults: list[str] = field(default_factory=list)

    def total(self, name: str) -> int:
        """Cases of a class."""
        return sum(n for (_, found), n in self.counts.items() if found == name)

    def table(self) -> str:
        """Table of the counts."""
        kinds = sorted({kind for kind, _ in self.counts})
        rows = [f"{'':20}" + "".join(f"{name:>22}" for name in CLASSES)]
        rows += [f"{kind:20}" + "".join(f"{self.counts[kind, name]:>22}" for name in CLASSES) for kind in kinds]
        return "\n".join([*rows, f"{'all':20}" + "".join(f"{self.total(name):>22}" for name in CLASSES)])


@contextmanager
def _limit(seconds: float) -> Iterator[None]:
    """Stop after seconds of computing, or ten times as long by the clock, as a file that never ends takes no time of the CPU."""

    def stop(*_: object) -> None:
        raise HangError

    timers = {signal.SIGPROF: (signal.ITIMER_PROF, seconds), signal.SIGALRM: (signal.ITIMER_REAL, 10 * seconds)}
    before = {number: signal.signal(number, stop) for number in timers}
    for timer, limit in timers.values():
        signal.setitimer(timer, limit, 1.0)  # again, should a reader take the first for an error of the file
    try:
        yield
    finally:
        for number, (timer, _) in timers.items():
            signal.setitimer(timer, 0)
            signal.signal(number, before[number])


def _class_of(kind: Callable, draw: random.Random, folder: Path) -> tuple[str, str]:
    """Class of a case, and a line about it."""
    try:
        with _limit(SECONDS):
            kind(draw, folder)
    except HangError:
        return "hang", f"more than {SECONDS} s"
    except WrongError as error:
        return "silently wrong", str(error)
    except (ValueError, InputError) as error:
        text = str(error)
        plain = isinstance(error, InputError) or type(error) is ValueError
        if plain and str(folder) in text and "\n" not in text.strip():
            return "refused in one line", text
        return "traceback", f"{type(error).__name__}: {text!r}"
    except Exception as error:
        return "traceback", f"{type(error).__name__}: {error}"
    return "read alike", ""


def fuzz(cases: int, seed: int = 0, seconds: float = math.inf) -> Report:
    """Run cases of all kinds in turn, each from its own seed, so that any can be repeated.

    Args:
        cases: number.
        seed: of the first case.
        seconds: time after which no further case is started.
    """
    report, end = Report(), time.monotonic() + seconds
    logging.disable(logging.ERROR)
    load_packages()
    load_itk()
    root = Path(tempfile.mkdtemp())
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            for number, kind in zip(range(cases), itertools.cycle(KINDS), strict=False):
                if time.monotonic() > end:
                    break
                folder = root / str(number)
                folder.mkdir()
                name, text = _class_of(kind, random.Random(f"{seed} {number}"), folder)
                report.counts[kind.__name__, name] += 1
                if name in CLASSES[2:]:
                    report.faults.append(f"{kind.__name__} {number}: {name}: {text.replace(str(root), '')[:300]}")
                shutil.rmtree(folder)
    finally:
        logging.disable(logging.NOTSET)
        shutil.rmtree(root, ignore_errors=True)
    return report


def main() -> None:
    """Run many cases and print their classes; exit status 1 where one must not occur."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--cases", type=int, default=10_000)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--seconds", type=float, default=math.inf)
    arguments = parser.parse_args()
    report = fuzz(arguments.cases, arguments.seed, arguments.seconds)
    print("\n".join([*report.faults, report.table()]))
    sys.exit(bool(report.faults))


if __name__ == "__main__":
    main()
