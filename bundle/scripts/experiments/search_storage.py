# SPDX-License-Identifier: Apache-2.0
"""Where a study is kept: an SQLite file, a journal file or a PostgreSQL server. And Optuna's parts by their names."""

from __future__ import annotations

import inspect
import re
import time
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..core.errors import InputError
from .search_space import nearest

if TYPE_CHECKING:
    import optuna

# Their suggestions depend on nothing but seed, trial and history, so they can be seeded anew for every trial.
SEEDED = ("TPESampler", "RandomSampler", "GPSampler")


@dataclass(frozen=True)
class Timing:
    """Seconds between looks.

    Attributes:
        beat: between signs of life of a trial in a database.
        dead: without one after which a trial is begun again.
        unclaimed: that a running trial may be without a claim on its folder; above the 60 seconds that NFS may hide a new file.
        poll: between looks at the study while others finish.
        watch: between looks at a training.
    """

    beat: int = 15
    dead: int = 120
    unclaimed: float = 90.0
    poll: float = 3.0
    watch: float = 1.0


@dataclass(frozen=True)
class Opened:
    """A storage that answered.

    Attributes:
        storage: of Optuna.
        shown: its address without the password.
        shared: whether its workers share the folder of results: a file can only be shared so, a server needs no shared folder.
    """

    storage: optuna.storages.BaseStorage
    shown: str
    shared: bool


def need_optuna() -> Any:
    """Import Optuna.

    Raises:
        InputError: when it is not installed.
    """
    try:
        import optuna
    except ImportError:
        raise InputError("search needs the package optuna, which is not installed; pip install '.[search]'") from None
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    # What this module uses of Optuna's "experimental" parts is tested here with the versions that pyproject.toml names.
    warnings.filterwarnings("ignore", category=optuna.exceptions.ExperimentalWarning)
    warnings.filterwarnings("ignore", message="Heartbeat of storage")  # search_course gives the signs of life itself
    return optuna


def hidden(url: str) -> str:
    """Address without its password."""
    url = re.sub(r"(?<=://)([^:/@]*):.*@", r"\1:***@", url)
    return re.sub(r"(?i)(passw(?:or)?d=)[^&\s]*", r"\1***", url)


def _journal(path: Path, shown: str) -> optuna.storages.BaseStorage:
    from optuna.storages import JournalStorage
    from optuna.storages.journal import JournalFileBackend

    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        return JournalStorage(JournalFileBackend(str(path)))
    except OSError as error:
        raise InputError(
            f"--storage {shown}: {error.strerror or error}; give a file in a folder that can be written"
        ) from None
    except (ValueError, KeyError):
        raise InputError(f"--storage {shown}: is no journal of Optuna; give another file or restore this one") from None


def _address(url: str) -> tuple[str, str]:
    """Address with its driver, and the kind of database."""
    kind = url.partition("://")[0].split("+")[0]
    if kind == "sqlite":
        file = Path(url.partition(":///")[2].partition("?")[0])
        if not file.name:
            raise InputError(f"--storage {url}: names no file; give sqlite:////absolute/path/study.db")
        try:
            file.parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise InputError(
                f"--storage {url}: {file.parent}: {error.strerror}; give a folder that can be written"
            ) from None
        return url, kind
    if kind in ("postgresql", "postgres"):
        try:
            import psycopg  # noqa: F401
        except ImportError:
            raise InputError(
                f"--storage {hidden(url)}: PostgreSQL needs the package psycopg, which is not installed; "
                "pip install 'psycopg[binary]'"
            ) from None
        return "postgresql+psycopg://" + url.partition("://")[2], "postgresql"
    raise InputError(
        f"--storage {hidden(url)}: there is no such kind of storage; {nearest(kind, ['sqlite', 'postgresql', 'journal'])}, "
        "such as sqlite:////path/study.db, postgresql://user@host/name or journal:////path/study.log"
    )


def open_storage(url: str | None, root: Path, again: Any = None, timing: Timing | None = None) -> Opened:
    """Open the storage of a study.

    Args:
        url: ``sqlite:///FILE``, ``journal:///FILE`` or a path that ends in .log, ``postgresql://...``; None for ROOT/study.db.
        root: folder of the results.
        again: called with study and trial when a trial gave no sign of life for too long.
        timing: how long that is.

    Raises:
        InputError: when it cannot be reached or its driver is missing; the password is not in the line.
    """
    optuna = need_optuna()
    timing = timing or Timing()
    if url is not None and (url.startswith("journal://") or (url.endswith(".log") and "://" not in url)):
        path = Path(url.removeprefix("journal://")).expanduser()
        return Opened(_journal(path, url), f"journal://{path}", True)
    address, kind = _address(url or f"sqlite:///{root / 'study.db'}")
    options: dict[str, Any] = {"pool_pre_ping": True}
    options["connect_args"] = {"timeout": 60} if kind == "sqlite" else {"connect_timeout": 10}
    for attempt in range(5):
        try:
            storage = optuna.storages.RDBStorage(
                address,
                engine_kwargs=options,
                heartbeat_interval=timing.beat,
                grace_period=timing.dead,
                heartbeat_stale_trial_callback=again,
            )
            return Opened(storage, hidden(address), kind == "sqlite")
        except Exception as error:
            # Two workers that begin at once may both make the tables; the slower one finds them on its next try.
            raced = re.search(
                r"already exists|UNIQUE|duplicate key|is locked", f"{error} {error.__cause__}", re.IGNORECASE
            )
            if raced and attempt < 4:
                time.sleep(0.5 * (attempt + 1))
                continue
            reason = hidden(str(error.__cause__ or error).strip().split("\n")[0])
            remedy = "check host, port, name and password, and that the server runs"
            remedy = "give a file in a folder that can be written" if kind == "sqlite" else remedy
            raise InputError(f"--storage {hidden(url or address)}: cannot be used ({reason}); {remedy}") from None
    raise AssertionError


def _part(module: Any, base: type, given: Mapping[str, Any], kind: str, source: str) -> Any:
    """Make a sampler or pruner of Optuna from its name and arguments."""
    known = [n for n in module.__all__ if isinstance(getattr(module, n), type) and issubclass(getattr(module, n), base)]
    name, arguments = given.get("name"), {k: v for k, v in given.items() if k != "name"}
    known = [n for n in known if getattr(module, n) is not base]
    if name not in known:
        raise InputError(f"{source}: {kind} name={name!r}: there is no such {kind} in Optuna; {nearest(name, known)}")
    for key, value in arguments.items():
        if isinstance(value, dict) and "name" in value:  # PatientPruner around another one
            arguments[key] = _part(module, base, value, kind, source)
    made = getattr(module, str(name))
    taken = list(inspect.signature(made).parameters)
    for key in arguments:
        if key not in taken:
            raise InputError(f"{source}: {kind} {name} takes no {key}; {nearest(key, taken)}")
    try:
        return made(**arguments)
    except (TypeError, ValueError) as error:
        raise InputError(f"{source}: {kind} {name}: {error}") from None


def make_pruner(given: Mapping[str, Any], source: str) -> optuna.pruners.BasePruner:
    """Pruner of a search space.

    Raises:
        InputError: for an unknown name or argument.
    """
    module = need_optuna().pruners
    return _part(module, module.BasePruner, given, "pruner", source)


def make_sampler(given: Mapping[str, Any], source: str) -> optuna.samplers.BaseSampler:
    """Sampler of a search space, seeded for every trial by its number.

    With one seed for all, workers that begin at once would draw the same trials. By its number a trial draws the same values
    whichever worker has it.

    Raises:
        InputError: for an unknown name or argument.
    """
    module = need_optuna().samplers
    made = _part(module, module.BaseSampler, given, "sampler", source)
    if given.get("name") not in SEEDED or not isinstance(given.get("seed"), int):
        return made
    seed: int = given["seed"]

    class ByNumber(module.BaseSampler):  # type: ignore[name-defined, misc]
        def _of(self, trial: optuna.trial.FrozenTrial) -> optuna.samplers.BaseSampler:
            numbered = {**given, "seed": (seed * 1000003 + trial.number * 7919) % (1 << 31)}
            return _part(module, module.BaseSampler, numbered, "sampler", source)

        def infer_relative_search_space(self, study: Any, trial: Any) -> Any:
            return made.infer_relative_search_space(study, trial)

        def sample_relative(self, study: Any, trial: Any, search_space: Any) -> Any:
            return self._of(trial).sample_relative(study, trial, search_space)

        def sample_independent(self, study: Any, trial: Any, param_name: str, param_distribution: Any) -> Any:
            # The draws of one trial must differ by parameter: one generator per trial would start anew for each of them.
            numbered = {**given, "seed": (seed + trial.number * 7919 + _stable(param_name)) % (1 << 31)}
            sampler = _part(module, module.BaseSampler, numbered, "sampler", source)
            return sampler.sample_independent(study, trial, param_name, param_distribution)

    return ByNumber()


def _stable(text: str) -> int:
    """Number of a text that is the same in every process."""
    import zlib

    return zlib.crc32(text.encode())
