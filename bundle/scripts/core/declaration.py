# SPDX-License-Identifier: Apache-2.0
"""Signatures of commands read from their source, so that help and the check of options need no import of PyTorch and MONAI."""

from __future__ import annotations

import ast
import contextlib
import typing
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

# Names that annotations of commands may use; strings, since every module has the annotations import.
NAMESPACE: dict[str, object] = {"Sequence": Sequence, "Mapping": Mapping, "Callable": Callable, "Path": Path}


def _module_file(root: Path, module: str) -> Path | None:
    """File of a module of the package, or None where it has none."""
    path = root.joinpath(*module.split("."))
    return next((file for file in (path.with_suffix(".py"), path / "__init__.py") if file.is_file()), None)


def _literals(tree: ast.Module) -> dict[str, object]:
    """Names at the top of a module that stand for a literal."""
    found = {}
    for statement in tree.body:
        match statement:
            case (
                ast.Assign(targets=[ast.Name(id=name)], value=value)
                | ast.AnnAssign(target=ast.Name(id=name), value=ast.expr() as value)
            ):
                with contextlib.suppress(ValueError):
                    found[name] = ast.literal_eval(value)
    return found


def _defaults(tree: ast.Module, file: Path, function: ast.FunctionDef) -> dict[str, object]:
    """Literals that the defaults of a function name, of its own module or of one that this imports from the package."""
    defaults = [*function.args.defaults, *(d for d in function.args.kw_defaults if d)]
    needed = {node.id for default in defaults for node in ast.walk(default) if isinstance(node, ast.Name)}
    found = _literals(tree)
    for statement in tree.body:
        if isinstance(statement, ast.ImportFrom) and statement.level and needed & {a.asname or a.name for a in statement.names}:
            source = _module_file(file.parents[statement.level - 1], statement.module or "__init__")
            literals = _literals(ast.parse(source.read_text(encoding="utf-8"))) if source else {}
            found |= {a.asname or a.name: literals[a.name] for a in statement.names if a.name in literals}
    return {name: value for name, value in found.items() if name in needed}


def _wrapped(function: ast.FunctionDef) -> str | None:
    """Function of the same module that ``functools.wraps`` names as the only decorator."""
    match function.decorator_list:
        case [ast.Call(func=ast.Name(id="wraps"), args=[ast.Name(id=name)])]:
            return name
    return None


def declaration(target: str, root: Path) -> Callable | None:
    """Function with the signature and docstring of a command, and nothing behind them.

    Args:
        target: module below ``root`` and function, such as ``inference.segment:segment``.
        root: folder of the package.

    Returns:
        None where the source alone is not enough: the function is imported from another module or has a decorator other than
        ``wraps``, or an annotation or default of an argument needs an import.
    """
    module, _, name = target.partition(":")
    file = _module_file(root, module)
    if file is None:
        return None
    tree = ast.parse(file.read_text(encoding="utf-8"))
    functions = {s.name: s for s in tree.body if isinstance(s, ast.FunctionDef)}
    function = functions.get(name)
    if function is not None:
        function = functions.get(_wrapped(function) or name)
    if function is None or (function.name == name and function.decorator_list):
        return None
    function.body = [function.body[0] if ast.get_docstring(function) is not None else ast.Pass()]
    function.decorator_list = []
    function.returns = None  # the class of a result may need an import, and no option depends on it
    future = ast.ImportFrom(module="__future__", names=[ast.alias(name="annotations")], level=0)
    code = ast.fix_missing_locations(ast.Module(body=[future, function], type_ignores=[]))
    namespace = NAMESPACE | _defaults(tree, file, function)
    try:
        exec(compile(code, str(file), "exec"), namespace)  # a definition of the package's own source
        typing.get_type_hints(namespace[function.name])
    except NameError:
        return None
    return typing.cast(Callable, namespace[function.name])
