# SPDX-License-Identifier: Apache-2.0
"""Command lines whose options are checked before anything runs.

Fire runs a function with the options it knows and complains of the others afterwards; it reads ``--out 2024`` as a number and an
option without value as True. Here every option is compared with the signature and its type first.
"""

from __future__ import annotations

import difflib
import inspect
import re
import sys
import types
import typing
from collections.abc import Callable, Mapping, Sequence

import fire
from fire.decorators import SetParseFn, SetParseFns
from fire.parser import DefaultParseValue

from .errors import InputError

FLAG = re.compile(r"--|-[A-Za-z]")
NAMES = {str: "a text", int: "a whole number", float: "a number", bool: "True or False"}
LISTS = {
    str: "a list of texts, such as \"['a','b']\"",
    int: 'a list of whole numbers, such as "[1,2]"',
    float: 'a list of numbers, such as "[0.5,1]"',
}


def _kinds(hint: object) -> list:
    """Members of a union; of another type the type itself."""
    union = typing.get_origin(hint) in (typing.Union, types.UnionType)
    return list(typing.get_args(hint)) if union else [hint]


def _describe(kinds: Sequence) -> str:
    return " or ".join(
        LISTS[typing.get_args(kind)[0]] if typing.get_origin(kind) is not None else NAMES[kind]
        for kind in kinds
        if kind is not type(None)
    )


def _fits(value: object, kind: object) -> bool:
    if typing.get_origin(kind) is not None:
        return isinstance(value, (list, tuple)) and all(_fits(item, typing.get_args(kind)[0]) for item in value)
    if kind in (int, float):
        return isinstance(value, (int, float) if kind is float else int) and not isinstance(value, bool)
    return isinstance(value, kind)  # type: ignore[arg-type]


def converter(option: str, hint: object) -> Callable[[str], object]:
    """Return a function from the text on the command line to a value of the annotated type.

    Args:
        option: name of the argument, for messages.
        hint: annotation: str, int, float, bool, None, a sequence of one of them, or a union of these.
    """
    kinds = _kinds(hint)

    def convert(text: str) -> object:
        if type(None) in kinds and text == "None":
            return None
        if str in kinds and not any(typing.get_origin(kind) for kind in kinds):
            return text
        value = DefaultParseValue(text)
        if Sequence[str] in kinds and isinstance(value, (list, tuple)):
            value = [str(item) for item in value]
        elif str in kinds and not isinstance(value, (list, tuple)):
            value = text
        if not any(_fits(value, kind) for kind in kinds):
            raise InputError(f"--{option} {text}: must be {_describe(kinds)}")
        return value

    return convert


def _option(flag: str, parameters: Mapping[str, inspect.Parameter]) -> tuple[str, bool]:
    """Name of the parameter that a flag sets, and whether the flag is the negation of a switch (``--nooption``)."""
    key = flag.lstrip("-").partition("=")[0].replace("-", "_")
    if key in parameters:
        return key, False
    if key.startswith("no") and isinstance(getattr(parameters.get(key[2:]), "default", None), bool):
        return key[2:], True
    starting = [p for p in parameters if len(key) == 1 and p[0] == key]
    if len(starting) == 1:
        return starting[0], False
    close = difflib.get_close_matches(key, parameters, n=1)
    known = ", ".join(f"--{p}" for p in parameters)
    raise InputError(
        f"{flag}: there is no such option; {f'did you mean --{close[0]}?' if close else f'known: {known}'}"
    )


def check_arguments(command: Callable, arguments: Sequence[str], name: str) -> None:
    """Compare the arguments of a command with its signature.

    Args:
        command: function.
        arguments: what follows the name of the command.
        name: of the program and the command, for messages.

    Raises:
        InputError: for an unknown option, an option without value, a value of another type, too many values or too few.
    """
    signature = inspect.signature(command).parameters
    hints = typing.get_type_hints(command)
    named = {k: p for k, p in signature.items() if p.kind is not p.VAR_POSITIONAL}
    places = [k for k, p in signature.items() if p.kind is p.POSITIONAL_OR_KEYWORD]
    given: set[str] = set()
    values: list[str] = []
    left = list(arguments)
    while left:
        argument = left.pop(0)
        if not FLAG.match(argument):
            values.append(argument)
            continue
        key, negated = _option(argument, named)
        given.add(key)
        if "=" in argument:
            text = argument.partition("=")[2]
        elif left and not FLAG.match(left[0]):
            text = left.pop(0)
        elif negated or bool in _kinds(hints[key]):
            text = "True"
        else:
            raise InputError(f"--{key}: needs a value, {_describe(_kinds(hints[key]))}")
        converter(key, hints[key])(text)
    free = [k for k in places if k not in given]
    if len(values) > len(free) and len(named) == len(signature):
        raise InputError(f"{values[len(free)]}: one value too many for {name}; options are written as --option value")
    for key, text in zip(free, values, strict=False):
        converter(key, hints[key])(text)
    absent = [
        k for k in named if named[k].default is inspect.Parameter.empty and k not in {*given, *free[: len(values)]}
    ]
    if absent:
        raise InputError(f"{name}: {', '.join('--' + k for k in absent)} is missing; see {name} --help")


def run(commands: Mapping[str, Callable], name: str) -> None:
    """Run a command of this process's command line; help is Fire's.

    Args:
        commands: functions by the name of their command.
        name: of the module, as after ``python -m``.

    Raises:
        InputError: one line, before anything runs; later only where a file or folder cannot be used.
    """
    for stream in (
        sys.stdout,
        sys.stderr,
    ):  # a terminal that knows only ASCII must not end a command that has done its work
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="replace")
    arguments = sys.argv[1:]
    program = f"python -m {name}"
    if arguments and not {"--", "-h", "--help"} & set(arguments):
        first = arguments[0]
        if first not in commands:
            close = difflib.get_close_matches(first, commands, n=1)
            hint = f"did you mean {close[0]}?" if close else f"known: {', '.join(commands)}"
            raise InputError(f"{first}: there is no such command of {program}; {hint}")
        check_arguments(commands[first], arguments[1:], f"{program} {first}")
        hints = typing.get_type_hints(commands[first])
        parameters = inspect.signature(commands[first]).parameters
        SetParseFns(**{key: converter(key, hints[key]) for key in parameters})(commands[first])
        for key, parameter in parameters.items():
            if parameter.kind is parameter.VAR_POSITIONAL:
                SetParseFn(converter(key, hints[key]))(commands[first])
    try:
        fire.Fire(dict(commands), name=name)
    except OSError as error:  # a folder that is a file, no permission, a full disk
        if error.filename is None:
            raise
        raise InputError(f"{error.filename}: {error.strerror}; choose another place or mend this one") from None
