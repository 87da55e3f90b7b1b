# SPDX-License-Identifier: Apache-2.0
"""Overlays of a config as files, checked against it before anything is resolved; MONAI accepts a misspelt id in silence."""

from __future__ import annotations

import difflib
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from .config_overrides import type_problem
from .config_values import value_problem
from .deprecations import migrate_config
from .errors import InputError, first_line, last_line
from .paths import CONFIGS

CLOSE = 0.8  # similarity of an unknown id to a known one above which it counts as misspelt


def find_overlay(name: str) -> Path:
    """File of an overlay.

    Args:
        name: a file, or a name below ``configs/``.

    Raises:
        InputError: when there is none.
    """
    for path in (Path(name), CONFIGS / name):
        if path.is_file():
            return path
    raise InputError(f"{name}: no such config; must be a file, or a name below {CONFIGS}")


def load_overlay(file: Path, base: Mapping[str, Any]) -> dict[str, Any]:
    """Read an overlay; names of earlier versions are renamed with a warning.

    Args:
        file: YAML or JSON.
        base: config that it changes.

    Raises:
        InputError: for a file that is no mapping of ids, a misspelt id, or a value of another type than the config's.
    """
    from monai.bundle import ConfigParser

    try:
        content = ConfigParser.load_config_file(str(file))
    except Exception as error:  # of the parsers of YAML and JSON, or a name that is neither
        reason = " ".join(dict.fromkeys((first_line(error), last_line(error))))
        raise InputError(f"{file}: cannot be read as a config ({reason}); must be YAML or JSON") from None
    if not isinstance(content, dict):
        raise InputError(f"{file}: must be a mapping of ids to values, such as `threshold: 0.4`")
    content = migrate_config(content, str(file))
    text = repr(list(content.values()))
    for key, value in content.items():
        name = re.split(r"::|#", str(key).lstrip("+"))[0]
        if name not in base and not re.search(rf"[@%]{re.escape(name)}\b", text):
            close = difflib.get_close_matches(name, [str(k) for k in base], n=1, cutoff=CLOSE)
            if close:
                raise InputError(f"{file}: there is no id {name!r}; did you mean {close[0]!r}?")
        problem = type_problem(str(key), base.get(key), value)
        if problem:
            raise InputError(f"{file}: {problem.removeprefix('--')}")
        if words := value_problem(str(key).lstrip("+"), value):
            raise InputError(f"{file}: {key}: {value!r}: {words}")
    return content


def resolve(parser: Any, name: str) -> Any:
    """Resolved content of an id of a ``ConfigParser``.

    Raises:
        InputError: one line with the id and the first cause, where MONAI raises several errors around it.
    """
    try:
        return parser.get_parsed_content(name)
    except Exception as error:
        cause: BaseException = error
        while cause.__cause__ is not None:
            cause = cause.__cause__
        raise InputError(f"config: `{name}` cannot be resolved ({first_line(cause)}); correct the overlay or the option") from error
