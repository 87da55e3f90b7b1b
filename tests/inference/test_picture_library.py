# SPDX-License-Identifier: Apache-2.0
"""matplotlib is imported beside the first pass of a process, once, and not before."""

from __future__ import annotations

import sys
import threading

import numpy as np
import pytest
from fakes import save, with_tissue
from scripts.core.errors import InputError
from scripts.inference import cohort, picture_library
from scripts.inference.picture_library import load_beside
from scripts.inference.segment import segment


def test_import_begins_with_the_first_windows_of_a_pass(monkeypatch):
    loaded, calls = threading.Event(), []
    monkeypatch.setattr(picture_library, "_load", lambda: (calls.append(1), loaded.set()))
    monkeypatch.delitem(sys.modules, "matplotlib.figure", raising=False)
    reported = []
    report = load_beside(lambda *words: reported.append(words))
    for words in (("reading", 5, 10), ("coarse pass", 0, 8)):
        report(*words)
    assert not calls
    for words in (("coarse pass", 4, 8), ("coarse pass, between", 8, 8), ("fine pass", 2, 3)):
        report(*words)
    assert loaded.wait(5)
    assert calls == [1]
    assert len(reported) == 5


def test_nothing_is_begun_where_it_is_imported(monkeypatch):
    monkeypatch.setattr(picture_library, "_load", lambda: pytest_fail())
    monkeypatch.setitem(sys.modules, "matplotlib.figure", picture_library)
    before = threading.active_count()
    load_beside(lambda *_: None)("fine pass", 1, 1)
    assert threading.active_count() == before


def test_segmenter_imports_it_beside_the_network_only(tmp_path, monkeypatch):
    scan = save(tmp_path / "scan.nii.gz", with_tissue(np.full((24, 32, 32), 40, np.int16)), np.diag([1.5, 1.5, 1.5, 1.0]))
    imported = []

    def stop(progress):
        imported.append("matplotlib.figure" in sys.modules)
        raise ValueError("ended before its first window")

    monkeypatch.delitem(sys.modules, "matplotlib.figure", raising=False)
    monkeypatch.setattr(cohort, "load_beside", stop)
    with pytest.raises(InputError, match="ended before its first window"):
        segment(str(scan), out=str(tmp_path / "out"), device="cpu")
    assert imported == [False]


def pytest_fail():
    raise AssertionError("imported again")
