# SPDX-License-Identifier: Apache-2.0
"""Shared fixtures: a tiny phantom data set, made once, and the folders of the project."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

# One of several processes (pytest-xdist) has one thread, and so have the commands that it starts.
PARALLEL = "PYTEST_XDIST_WORKER" in os.environ
if PARALLEL:
    os.environ.setdefault("OMP_NUM_THREADS", "1")

import torch  # noqa: E402

ROOT = Path(__file__).resolve().parents[1]
BUNDLE = ROOT / "bundle"
SHARED = ROOT.parent / "shared"

os.environ.setdefault("MPLBACKEND", "Agg")


# First line of programs that need no more of MONAI than a command does, which is imported in a third of the time.
LEAN = "from scripts.core.optional_packages import import_monai_lean; import_monai_lean()"


def python_path(*folders: Path) -> str:
    """PYTHONPATH of a process: folders, and the one by which MONAI is that of the base installation."""
    return os.pathsep.join(map(str, (*folders, ROOT / "tests" / "base_install")))


torch.set_num_threads(1 if PARALLEL else 2)

# Files of half a minute and more: they are begun first, so that no process works alone at the end.
LONG = (
    "experiments/test_suite_runs.py",
    "training/test_interruption.py",
    "experiments/test_suite_stop.py",
    "training/test_resume.py",
    "training/test_distributed.py",
    "test_workflows.py",
    "inference/test_runtimes.py",
    "inference/test_cohort.py",
    "experiments/test_search.py",
    "experiments/test_search_workers.py",
)


def pytest_configure(config: pytest.Config) -> None:
    if not config.getoption("numprocesses", None):  # the processes of pytest-xdist itself have the whole of MONAI
        os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, [python_path(), os.environ.get("PYTHONPATH")]))


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    if PARALLEL:
        rank = {ROOT / "tests" / name: number for number, name in enumerate(LONG)}
        items.sort(key=lambda item: rank.get(item.path, len(rank)))


def scripted(model: torch.nn.Module) -> torch.jit.ScriptModule:
    """Compile a network by ``torch.jit.script``.

    TorchScript identifies its built-in functions by ``id()`` and mistakes a later object at the address of a freed one for it
    ("builtin cannot be used as a value"); once in many whole suites that hits a list of a convolution, so the entries at the
    addresses of attributes that are no functions are removed. An empty store of types has none whose methods were defined in part
    ("Can't redefine method").
    """
    functions = torch.jit._builtins._get_builtin_table()
    for module in model.modules():
        for value in vars(module).values():
            if not callable(value):
                functions.pop(id(value), None)
    try:
        return torch.jit.script(model)
    except RuntimeError as error:
        if "Can't redefine method" not in str(error):
            raise
        torch.jit._recursive.concrete_type_store = torch.jit._recursive.ConcreteTypeStore()
    return torch.jit.script(model)


@pytest.fixture(scope="session")
def bundle() -> Path:
    return BUNDLE


@pytest.fixture(scope="session")
def verse19() -> Path:
    folder = SHARED / "data" / "verse19"
    if not folder.is_dir():
        pytest.skip(f"real CT is not at {folder}")
    return folder


@pytest.fixture(scope="session")
def phantom_set(tmp_path_factory) -> Path:
    """Four coarse scans of one region: two for training, one for validation, one for testing, all but one fractured.

    In each the vertebra at the upper end of the scan is marked as unknown, as in sets where it has no grade.
    """
    import nibabel as nib
    import numpy as np
    from scripts.simulation.datasets.phantom import phantom

    root = tmp_path_factory.mktemp("phantoms")
    phantom(str(root), cases=4, seed=3, regions="lumbar", grades=3, healthy=0.25, spacing=(4.0, 3.0, 3.0))
    for file in sorted((root / "labels").glob("*.nii.gz")):
        label, vertebrae = nib.load(file), np.asarray(nib.load(root / "vertebrae" / file.name).dataobj)
        mask = np.asarray(label.dataobj).copy()
        mask[(vertebrae == vertebrae[vertebrae > 0].min()) & (mask == 0)] = 255
        nib.save(nib.Nifti1Image(mask, label.affine), file)
    return root
