# SPDX-License-Identifier: Apache-2.0
"""Imports and the targets of configs run one way: from the later rooms of CONTRIBUTING.md's order to the earlier ones."""

import ast
import re
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[1]
SCRIPTS = ROOT / "bundle" / "scripts"
CONFIGS = ROOT / "bundle" / "configs"
TARGET = re.compile(r"\bscripts\.([a-z_]+)((?:\.\w+)*)")


def _layers() -> dict[str, int]:
    """Rank of every room; rooms of one line have the same rank and do not import each other."""
    text = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    block = re.search(r"```layers\n(.*?)```", text, re.S)
    assert block, "CONTRIBUTING.md has no ```layers block"
    lines = [line.split("#")[0].split() for line in block.group(1).splitlines() if line.strip()]
    return {room: rank for rank, rooms in enumerate(lines) for room in rooms}


def _config_rooms() -> dict[str, str]:
    """Room of every config by the pattern of its path, from the table in CONTRIBUTING.md; the first pattern that fits decides."""
    text = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    block = re.search(r"```config-rooms\n(.*?)```", text, re.S)
    assert block, "CONTRIBUTING.md has no ```config-rooms block"
    return dict(line.split("#")[0].split() for line in block.group(1).splitlines() if line.strip())


LAYERS, CONFIG_ROOMS = _layers(), _config_rooms()


def _module(file: Path) -> str:
    parts = file.relative_to(SCRIPTS).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = {_module(f): f for f in sorted(SCRIPTS.rglob("*.py"))}


def _imports(module: str) -> set[str]:
    """Modules of the bundle that a module imports, also inside functions."""
    file, found = MODULES[module], set()
    package = module.split(".") if file.name == "__init__.py" else module.split(".")[:-1]
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else []
            name = ".".join([*base, *(node.module or "").split(".")]).strip(".")
            if not node.level and not name.startswith("scripts"):
                continue
            name = name.removeprefix("scripts").strip(".")
            for alias in node.names:
                full = f"{name}.{alias.name}".strip(".")
                found.add(full if full in MODULES else name)
        elif isinstance(node, ast.Import):
            found |= {a.name.removeprefix("scripts.") for a in node.names if a.name.startswith("scripts.")}
    return {m for m in found if m in MODULES and m != module}


GRAPH = {module: _imports(module) for module in MODULES}


def _room(module: str) -> str:
    return "commands" if module.endswith("__main__") else module.split(".")[0]


def _config_targets(file: Path) -> set[str]:
    return {room + rest for room, rest in TARGET.findall("\n".join(_values(yaml.safe_load(file.read_text(encoding="utf-8")))))}


def _values(node: object) -> list[str]:
    if isinstance(node, dict):
        return [v for value in node.values() for v in _values(value)]
    if isinstance(node, list):
        return [v for value in node for v in _values(value)]
    return [node] if isinstance(node, str) else []


def test_every_room_has_a_rank_and_says_what_belongs_there():
    rooms = {_room(m) for m in MODULES if m}
    assert rooms <= set(LAYERS), f"not in CONTRIBUTING.md: {sorted(rooms - set(LAYERS))}"
    folders = {f.parent for f in MODULES.values()}
    silent = [str(d) for d in folders if ast.get_docstring(ast.parse((d / "__init__.py").read_text(encoding="utf-8"))) is None]
    assert not silent


def test_no_module_imports_upwards_or_sideways():
    wrong = [
        f"{module} -> {other}"
        for module, others in GRAPH.items()
        for other in others
        if other and _room(other) != _room(module) and LAYERS[_room(other)] >= LAYERS[_room(module)]
    ]
    assert not wrong, "\n".join(wrong)


def test_there_is_no_import_circle():
    state: dict[str, int] = {}

    def visit(module: str, path: list[str]) -> None:
        state[module] = 1
        for other in sorted(GRAPH[module]):
            assert state.get(other) != 1, " -> ".join([*path, module, other])
            if other not in state:
                visit(other, [*path, module])
        state[module] = 2

    for module in GRAPH:
        if module not in state:
            visit(module, [])


CONFIG_FILES = sorted(f for f in CONFIGS.rglob("*.yaml"))


@pytest.mark.parametrize("file", CONFIG_FILES, ids=lambda f: f.relative_to(CONFIGS).as_posix())
def test_config_names_only_rooms_below_it(file):
    path = file.relative_to(CONFIGS)
    room = next((r for pattern, r in CONFIG_ROOMS.items() if path.match(pattern)), None)
    assert room, f"{path}: no pattern of CONTRIBUTING.md's config-rooms fits"
    for target in _config_targets(file):
        first = target.split(".")[0]
        assert first in LAYERS, f"{path}: scripts.{target}: no such room"
        assert LAYERS[first] <= LAYERS[room] or first == room, f"{path} ({room}) names scripts.{target}"
        names = target.split(".")
        assert any(".".join(names[:n]) in MODULES for n in range(len(names), 0, -1)), f"{path}: scripts.{target}"
