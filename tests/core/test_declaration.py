# SPDX-License-Identifier: Apache-2.0
"""A declaration read from source has the signature and docstring of the function, or is None."""

from __future__ import annotations

import inspect

import pytest
from scripts.core.declaration import declaration

SOURCE = '''
from __future__ import annotations
import no_such_library
from functools import wraps
from collections.abc import Sequence
from .values import FAR, made
from ..top import ABOVE

NEAR: tuple[int, ...] = (1, 2)

def command(path: str, *rest: str, near: Sequence[int] = NEAR, far: float = FAR, both=tuple(ABOVE), off: bool | None = None) -> Any:
    """Run something.

    Args:
        path: folder.
    """
    return no_such_library.run()

@wraps(command)
def wrapper(*args, **kwargs) -> str: ...

@no_such_library.cached
def decorated(x: int = 1): ...

def computed(x: int = made()): ...

def typed(x: no_such_library.Thing): ...

def bare(x: int): ...
'''


@pytest.fixture
def root(tmp_path):
    (tmp_path / "room").mkdir()
    (tmp_path / "room" / "commands.py").write_text(SOURCE)
    (tmp_path / "room" / "values.py").write_text("FAR = 0.5\ndef made(): return 3\n")
    (tmp_path / "top.py").write_text("ABOVE = ['a', 'b']\n")
    return tmp_path


@pytest.mark.parametrize("name", ["command", "wrapper"])
def test_declaration_has_signature_and_docstring(root, name):
    found = declaration(f"room.commands:{name}", root)
    parameters = inspect.signature(found).parameters
    assert list(parameters) == ["path", "rest", "near", "far", "both", "off"]
    assert {k: p.default for k, p in parameters.items()} | {"path": 0, "rest": 0} == {
        "path": 0, "rest": 0, "near": (1, 2), "far": 0.5, "both": ("a", "b"), "off": None,
    }  # fmt: skip
    assert parameters["rest"].kind is inspect.Parameter.VAR_POSITIONAL
    assert inspect.getdoc(found).startswith("Run something.\n\nArgs:\n    path: folder.")
    assert found("x") is None


def test_function_without_docstring_has_a_declaration(root):
    assert list(inspect.signature(declaration("room.commands:bare", root)).parameters) == ["x"]


@pytest.mark.parametrize("target", ["decorated", "computed", "typed", "absent"])
def test_what_needs_an_import_has_no_declaration(root, target):
    assert declaration(f"room.commands:{target}", root) is None


def test_missing_module_has_no_declaration(root):
    assert declaration("room.nothing:command", root) is None
