# SPDX-License-Identifier: Apache-2.0
"""The notebooks of the manual run from top to bottom, and their committed outputs are small."""

import os
import sys
from pathlib import Path

import pytest
from conftest import BUNDLE, ROOT, python_path

NOTEBOOKS = sorted((ROOT / "docs").glob("*.ipynb"))


@pytest.fixture
def environment(monkeypatch, tmp_path):
    """Kernel in an empty folder, in which ``spine_fracture`` is the bundle of this checkout."""
    (tmp_path / "site").mkdir()
    (tmp_path / "site" / "spine_fracture").symlink_to(BUNDLE, target_is_directory=True)
    program = tmp_path / "site" / "spine-fracture"
    program.write_text(f"#!{sys.executable}\nfrom spine_fracture.scripts.commands import main\nmain()\n")
    program.chmod(0o755)
    monkeypatch.setenv("PYTHONPATH", python_path(tmp_path / "site"))
    monkeypatch.setenv("PATH", f"{tmp_path / 'site'}{os.pathsep}{os.environ['PATH']}")
    (tmp_path / "work").mkdir()
    return tmp_path / "work"


@pytest.mark.parametrize(
    "notebook", [pytest.param(p, marks=pytest.mark.slow if "training" in p.name else ()) for p in NOTEBOOKS], ids=lambda p: p.name
)
def test_notebook_runs_from_top_to_bottom(notebook, environment):
    nbformat, nbclient = pytest.importorskip("nbformat"), pytest.importorskip("nbclient")
    content = nbformat.read(notebook, as_version=4)
    for cell in content.cells:
        cell.source = cell.source.replace("epochs = 40", "epochs = 5")  # one validation of the demo's overlay
    nbclient.NotebookClient(
        content, timeout=600, kernel_name="python3", resources={"metadata": {"path": str(environment)}}
    ).execute()
    printed = "".join(o.get("text", "") for c in content.cells for o in c.get("outputs", []))
    assert "Traceback" not in printed, printed
    if notebook.name == "tutorial.ipynb":
        assert Path(environment, "tutorial/results/report.html").is_file()
        assert "grade 3" in printed
    else:
        assert Path(environment, "own/results/report.html").is_file()


@pytest.mark.parametrize("notebook", NOTEBOOKS, ids=lambda p: p.name)
def test_committed_notebook_is_executed_and_small(notebook):
    nbformat = pytest.importorskip("nbformat")
    cells = [c for c in nbformat.read(notebook, as_version=4).cells if c.cell_type == "code"]
    assert all(c.execution_count for c in cells)
    assert notebook.stat().st_size < 300_000
