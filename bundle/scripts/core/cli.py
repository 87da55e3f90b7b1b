# SPDX-License-Identifier: Apache-2.0
"""Command lines made from the signatures and docstrings of functions.

Every option is compared with the signature and its type before anything runs, so that a misspelt option costs no time.
"""

from __future__ import annotations

import ast
import inspect
import os
import re
import sys
import textwrap
import types
import typing
from collections.abc import Callable, Container, Mapping, Sequence
from importlib import import_module

from . import deprecations
from .collection import imports_kept
from .declaration import declaration
from .errors import InputError
from .files import os_error_line
from .library_messages import silence
from .optional_packages import import_monai_lean
from .paths import PACKAGE, SCRIPTS
from .provenance import version
from .suggestions import suggest

FLAG = re.compile(r"--|-[A-Za-z]")
HELP = {"-h", "--help"}
VERSION = {"-V", "--version"}
NAMES = {str: "a string", int: "a whole number", float: "a number", bool: "True or False"}
METAVARS = {str: "TEXT", int: "INTEGER", float: "NUMBER", bool: ""}
PATH_WORDS = r"(Path|File|CSV|YAML|JSON|NIfTI|Weights|Mask|Datalist|Overlay|Config|Recipe|Checkpoint|Appendix)\b"
PATHS = {"DIR": re.compile(r"(Output )?folder", re.IGNORECASE), "PATH": re.compile(PATH_WORDS)}
LISTS = {
    str: "a list of strings, such as \"['a','b']\"",
    int: 'a list of whole numbers, such as "[1,2]"',
    float: 'a list of numbers, such as "[0.5,1]"',
}
# Command -> (module of the package and function, one line of help); a group of commands is such a table itself.
Table = Mapping[str, "tuple[str | Table, str]"]


def _kinds(hint: object) -> list:
    """Members of a union, or the type itself if it is not a union."""
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


def check_value(value: object, hint: object, what: str) -> None:
    """Refuse a value that is not of an annotated type, in the words of the command line.

    Args:
        value: value, such as that of an option in YAML.
        hint: annotation, see ``converter``.
        what: beginning of the message.

    Raises:
        InputError: for a value of another type.
    """
    kinds = _kinds(hint)
    if not any(value is None if kind is type(None) else _fits(value, kind) for kind in kinds):
        raise InputError(f"{what}: must be {_describe(kinds)}")


def _literal(text: str) -> object:
    """Python literal, also a list whose strings have no quotes, such as ``[lumbar,7]``; else the text."""
    for attempt in (text, re.sub(r"(?<![\w'\"])((?:[A-Za-z_~/]|\.\.?/)[\w.\-/]*)(?![\w'\"])", r"'\1'", text)):
        try:
            return ast.literal_eval(attempt)
        except (ValueError, SyntaxError):
            continue
    return text


def converter(option: str, hint: object) -> Callable[[str], object]:
    """Function from the text on the command line to a value of the annotated type.

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
        value = _literal(text) if text[:1] in "[(" or str not in kinds else text
        if Sequence[str] in kinds and isinstance(value, (list, tuple)):
            value = [str(item) for item in value]
        elif str in kinds and not isinstance(value, (list, tuple)):
            value = text
        if not any(_fits(value, kind) for kind in kinds):
            raise InputError(f"--{option} {text}: must be {_describe(kinds)}")
        return value

    return convert


def _option(flag: str, parameters: Mapping[str, inspect.Parameter]) -> tuple[str, bool]:
    """Parameter that a flag sets, and True for the negation of a switch (``--nooption`` or ``--no-option``)."""
    key = flag.lstrip("-").partition("=")[0].replace("-", "_")
    if key not in parameters and deprecations.OPTIONS.get(key) in parameters:
        deprecations.warn(f"--{key}", f"--{deprecations.OPTIONS[key]}")
        key = deprecations.OPTIONS[key]
    if key in parameters:
        return key, False
    negated = key.removeprefix("no").removeprefix("_")
    if key.startswith("no") and isinstance(getattr(parameters.get(negated), "default", None), bool):
        return negated, True
    starting = [p for p in parameters if len(key) == 1 and p[0] == key]
    if len(starting) == 1:
        return starting[0], False
    raise InputError(f"{flag}: there is no such option; {suggest(key, parameters, prefix='--')}")


def parse_arguments(command: Callable, arguments: Sequence[str], name: str) -> tuple[list, dict[str, object]]:
    """Values of a command line, in the types of the command's annotations.

    Args:
        command: function.
        arguments: words after the name of the command.
        name: name of the program and the command, for messages.

    Returns:
        Positional and keyword arguments.

    Raises:
        InputError: for an unknown option, an option without value, a value of another type, too many values or too few.
    """
    signature = inspect.signature(command).parameters
    hints = typing.get_type_hints(command)
    named = {k: p for k, p in signature.items() if p.kind is not p.VAR_POSITIONAL}
    rest_name = next((k for k, p in signature.items() if p.kind is p.VAR_POSITIONAL), None)
    positional = [k for k, p in signature.items() if p.kind is p.POSITIONAL_OR_KEYWORD]
    keywords: dict[str, object] = {}
    values: list[str] = []
    words = list(arguments)
    while words:
        word = words.pop(0)
        if not FLAG.match(word):
            values.append(word)
            continue
        key, negated = _option(word, named)
        if key in keywords:
            several = any(typing.get_origin(kind) for kind in _kinds(hints[key]))
            remedy = f'several values are one list: --{key} "[A,B]"' if several else "keep one of them"
            raise InputError(f"--{key}: is given twice; {remedy}")
        if negated and ("=" in word or words[:1] in (["True"], ["False"])):
            raise InputError(f"{word.partition('=')[0]}: takes no value; it is the same as --{key} False")
        if "=" in word:
            text = word.partition("=")[2]
        elif not negated and words and not FLAG.match(words[0]):
            text = words.pop(0)
        elif negated or bool in _kinds(hints[key]):
            text = str(not negated)
        else:
            raise InputError(f"--{key}: needs a value, {_describe(_kinds(hints[key]))}")
        keywords[key] = converter(key, hints[key])(text)
    free = [k for k in positional if k not in keywords]
    if rest_name is None and len(values) > len(free):
        raise InputError(f"{values[len(free)]}: unexpected positional argument of {name}; options are written as --option value")
    for key, text in zip(free, values, strict=False):
        keywords[key] = converter(key, hints[key])(text)
    absent = [k for k, p in named.items() if p.default is p.empty and k not in keywords]
    if absent:
        raise InputError(
            f"{name}: {', '.join('--' + k for k in absent)} {'is' if len(absent) == 1 else 'are'} missing; see {name} --help"
        )
    rest = [converter(rest_name, hints[rest_name])(text) for text in values[len(free) :]] if rest_name else []
    return rest, keywords


def _sections(command: Callable) -> tuple[str, dict[str, str]]:
    """Description of a command, and the lines of the ``Args`` section of its docstring by argument."""
    text, _, rest = (inspect.getdoc(command) or "").partition("\nArgs:\n")
    block = textwrap.dedent(re.split(r"\n(?=\S)", rest)[0])
    items = re.findall(r"^\*?(\w+): (.*(?:\n\s+.*)*)", block, re.M)
    return text.strip(), {key: " ".join(lines.split()) for key, lines in items}


def _metavar(kinds: Sequence, text: str) -> str:
    """Type of a value for readers: DIR, PATH, INTEGER, NUMBER or TEXT; nothing for a switch."""
    single = next((k for k in kinds if k in METAVARS), None) or typing.get_args(kinds[0])[0]
    if single is not str:
        return METAVARS[single]
    return next((name for name, pattern in PATHS.items() if pattern.match(text)), "TEXT")


def help_text(command: Callable, name: str) -> str:
    """Help of one command: usage, description, and a paragraph for every argument with its type and default."""
    description, lines = _sections(command)
    hints, signature = typing.get_type_hints(command), inspect.signature(command).parameters
    usage, paragraphs = [name], []
    for key, parameter in signature.items():
        kinds = _kinds(hints[key])
        required = parameter.default is parameter.empty
        text = lines.get(key, "")
        text = text[:1].upper() + text[1:]
        metavar = _metavar(kinds, text)
        if parameter.kind is parameter.VAR_POSITIONAL:
            title = f"{key.upper()} ..."
            usage.append(title)
        elif required and parameter.kind is parameter.POSITIONAL_OR_KEYWORD:
            title = key.upper()
            usage.append(title)
        else:
            title = f"--{key} {metavar}".rstrip()
            usage += [title] if required else []
        default = "" if required or parameter.default is None or parameter.default is False else f" Default: {parameter.default}."
        several = [k for k in kinds if typing.get_origin(k) is not None]
        example = f" Several: {_describe(several).partition('such as ')[2]}." if several else ""
        body = textwrap.fill(f"{text}{default}{example}".strip(), 100, initial_indent="      ", subsequent_indent="      ")
        paragraphs.append(f"  {title}\n{body}")
    return f"Usage: {' '.join(usage)} [options]\n\n{description}\n\nArguments:\n" + "\n".join(paragraphs)


def _list(table: Table, name: str) -> str:
    width = max(len(k) for k in table)
    rows = [f"  {key.ljust(width)}  {line}" for key, (_, line) in table.items()]
    return f"Usage: {name} COMMAND ...\n\nCommands:\n" + "\n".join(rows) + f"\n\n{name} COMMAND --help lists its options."


def load(target: str) -> Callable:
    """Function that the target of a table names, such as ``inference.segment:segment``."""
    module, _, function = target.partition(":")
    return getattr(import_module(f"{PACKAGE}.{module}"), function)


def _load_kept(target: str) -> Callable:
    """Function of a command, whose imports no garbage collection searches."""
    with imports_kept():
        return load(target)


def declared(target: str) -> Callable:
    """Function with the signature and docstring of a command, without its imports where the source is enough."""
    return declaration(target, SCRIPTS) or load(target)


def call(command: Callable, arguments: Sequence[str], name: str, implementation: Callable[[], Callable] | None = None) -> object:
    """Run one command with the words of a command line, or print its help.

    Args:
        command: function, or its declaration.
        arguments: words after the name of the command.
        name: name of the program and the command, for messages.
        implementation: import of the function where ``command`` is its declaration, once the words are right.

    Raises:
        InputError: one line, before anything runs; later only where a file or folder cannot be used.
    """
    if HELP & set(arguments):
        print_text(help_text(command, name))
        return None
    values, keywords = parse_arguments(command, arguments, name)
    function = implementation() if implementation else command
    try:
        return function(*values, **keywords)
    except OSError as error:  # a folder that is a file, no permission, a full disk
        raise InputError(os_error_line(error)) from None


def print_text(text: str) -> None:
    """Print a help text or the result of a command; a reader that has ended, such as ``head``, is no error of it."""
    try:
        print(text, flush=True)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # the interpreter flushes once more at its end


def run(table: Table, name: str, arguments: Sequence[str] | None = None, whole: Container[object] = ()) -> None:
    """Run a command of a table, or of a group in it.

    Args:
        table: commands by name.
        name: name of the program, as typed.
        arguments: words after it; those of this process by default.
        whole: targets that need MONAI with all packages that it uses, which take two thirds of its import.

    Raises:
        InputError: for an unknown command, and as ``call``.
    """
    for stream in (sys.stdout, sys.stderr):  # a terminal that has only ASCII must not end a command that has done its work
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="replace")
    words = list(sys.argv[1:] if arguments is None else arguments)
    if not words or words[0] in (*HELP, "help"):
        print_text(_list(table, name))
        return
    if words[0] in VERSION:
        print_text(f"{name} {version()}")
        return
    first = words[0]
    if first not in table:
        raise InputError(f"{first}: {name} has no such command; {suggest(first, table)}")
    target, _ = table[first]
    if isinstance(target, str):
        silence()
        if target not in whole:
            import_monai_lean()
        result = call(declared(target), words[1:], f"{name} {first}", lambda: _load_kept(target))
        if isinstance(result, str):  # a path or a table; objects are for callers in Python
            print_text(result)
        if status := getattr(result, "exit_status", 0):  # a part of the work failed, which its own line has named
            sys.exit(status)
    elif len(words) == 1:
        raise InputError(f"{name} {first}: the command is missing; must be one of {', '.join(target)}")
    else:
        run(target, f"{name} {first}", words[1:], whole)
