# SPDX-License-Identifier: Apache-2.0
"""Modules that ``segment`` imports: none before its input is checked, and packages of seconds only where they are used."""

from __future__ import annotations

import json
import subprocess
import sys

import numpy as np
import pytest
from fakes import save, with_tissue
from scripts.core.paths import BUNDLE
from scripts.inference import segment

HEAVY = ("torch", "monai", "numpy", "nibabel", "scipy", "skimage", "yaml")
UNUSED = ("ignite", "itk", "highdicom", "mlflow", "onnx", "onnxruntime", "optuna", "pandas", "tensorboard", "tifffile", "sklearn")
PROGRAM = """
import gc, json, sys
from scripts.commands import main
sys.argv = ["spine-fracture", "segment", *sys.argv[1:]]
status = 0
try:
    main()
except SystemExit as ended:
    status = ended.code
packages = sorted({m.partition(".")[0] for m, v in sys.modules.items() if v is not None})
modules = ("torch.distributed.tensor", "matplotlib.figure", "matplotlib.pyplot")
print(json.dumps([status, packages, *[m in sys.modules for m in modules], gc.get_freeze_count()]))
"""


def run(*words: object) -> list:
    """Status or line of the command, packages imported at its end, three modules of them, and the number of objects set aside."""
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, *map(str, words)], cwd=BUNDLE, capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (("nowhere.nii.gz",), "nowhere.nii.gz: does not exist"),
        ((".", "--threshold", "3"), "threshold=3: must be"),
        ((".", "--config", "nowhere.yaml"), "nowhere.yaml: no such config"),
        ((".", "--checkpoint", "nowhere.pt"), "nowhere.pt: no such checkpoint"),
    ],
)
def test_options_and_files_are_checked_before_any_library(words, line, tmp_path):
    status, packages, *_ = run(*words, "--out", tmp_path / "out")
    assert line in status
    assert not set(HEAVY) & set(packages)
    assert not (tmp_path / "out").exists()


def test_file_that_is_no_scan_is_refused_before_pytorch(tmp_path):
    (tmp_path / "notes.txt").write_text("no scan")
    status, packages, *_ = run(tmp_path / "notes.txt", "--out", tmp_path / "out")
    assert "contains no scan" in status
    assert not {"torch", "monai", "pydicom"} & set(packages)


def test_packages_of_other_work_are_not_imported(tmp_path):
    scan = save(tmp_path / "scan.nii.gz", with_tissue(np.full((48, 64, 64), 40, np.int16)), np.diag([1.5, 1.5, 1.5, 1.0]))
    status, packages, traced, figure, pyplot, kept = run(scan, "--out", tmp_path / "out", "--device", "cpu", "--search", "all")
    assert status == 0
    assert not set(UNUSED) & set(packages)
    assert "pydicom" not in packages
    assert (traced, figure, pyplot) == (False, True, False)
    assert kept > 100_000  # objects of imports that no garbage collection searches


@pytest.mark.parametrize(
    ("text", "lean"),
    [
        ("overlap: 0.5 # as monai.bundle has it\n", True),
        ("post_transforms: [{_target_: Lambdad, keys: pred, func: $len}]\n", False),
        ("overlap: $monai.utils.misc.first([0.5])\n", False),
        ("imports: [$import monai]\n", False),
    ],
)
def test_only_overlays_with_components_need_the_whole_of_monai(text, lean, tmp_path, monkeypatch):
    calls = []
    monkeypatch.setattr(segment, "import_monai", lambda: calls.append("import"))
    monkeypatch.setattr(segment, "segment", lambda **options: calls.append("segment"))
    (tmp_path / "scan.nii.gz").touch()
    (tmp_path / "overlay.yaml").write_text(text)
    for config in (str(tmp_path / "overlay.yaml"), ["vertebrae.yaml", str(tmp_path / "overlay.yaml")]):
        calls.clear()
        segment.segment_command(path=str(tmp_path / "scan.nii.gz"), out=str(tmp_path / "out"), config=config)
        assert calls == (["import", "segment"] if lean else ["segment"])
