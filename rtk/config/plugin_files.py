"""A user's own Python files (`plugins`): each is run once, and adds rows to rtk's tables.

Such a file calls `rtk.scores.register(...)`, `rtk.objectives.register(...)`,
`rtk.data.prepare.sources.register(...)` or `rtk.models.backbones.register(...)`.
"""

from __future__ import annotations

import hashlib
import sys
import traceback
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any, TypeVar

from rtk.config.errors import ConfigError

Row = TypeVar("Row")
INTERACTIVE = "<interactive>"


@dataclass(frozen=True)
class PluginFile:
    """A user's file and the SHA-256 of its content, in hexadecimal."""

    path: Path
    sha256: str

    @classmethod
    def read(cls, path: Path) -> PluginFile:
        """The file at a path as it is now.

        Raises:
            ConfigError: it cannot be read.
        """
        try:
            return cls(path.absolute(), hashlib.sha256(path.read_bytes()).hexdigest())
        except OSError as error:
            raise ConfigError(f"plugins: cannot read {path} ({error.strerror})") from None


_loaded: set[str] = set()  # hashes of the files that this process has run
_owners: dict[tuple[str, str], PluginFile] = {}  # by kind and name of a row: the file that registered it


def add_row(table: dict[str, Row], kind: str, name: str, row: Row) -> None:
    """Add a row of a user's file to one of rtk's tables; a file that is run again replaces its own.

    Args:
        table: rows by name.
        kind: what is in it, such as `score`.
        name: of the row.
        row: what is added.

    Raises:
        ValueError: the name is taken.
    """
    caller, before = _calling_file(), _owners.get((kind, name))
    if name in table and (
        before is None or not (before.path == caller.path or before.sha256 == caller.sha256)
    ):
        owner = "rtk" if before is None else before.path
        raise ValueError(f"{kind} {name!r}: {owner} has one of this name, wanted another name")
    table[name] = row
    note_row(kind, name)


def note_row(kind: str, name: str) -> None:
    """Note which file has registered a row, for tables with rules of their own about names."""
    _owners[kind, name] = _calling_file()


def owner_of(kind: str, name: str) -> PluginFile | None:
    """The user's file that registered a row; None for rtk's own."""
    return _owners.get((kind, name))


def is_loaded(sha256: str) -> bool:
    """Whether a file of this content has been run, or has registered anything."""
    return sha256 in _loaded or any(owner.sha256 == sha256 for owner in _owners.values())


def find_plugins(given: Any, folder: Path) -> tuple[str, ...]:
    """Absolute paths of plug-ins, each once.

    Args:
        given: value of `plugins`: paths relative to `folder`, or else to the working folder.
        folder: of the recipe that names them.

    Raises:
        ConfigError: a file is not there, two have one name, or it is no list.
    """
    if not isinstance(given, list | tuple) or not all(isinstance(path, str) for path in given):
        raise ConfigError(f"plugins: got {given!r}, wanted a list of Python files, such as [my_score.py]")
    found: dict[str, Path] = {}
    for text in given:
        folders = dict.fromkeys([folder.absolute(), Path.cwd()])
        places = [base / Path(text).expanduser() for base in folders]
        path = next((place.resolve() for place in places if place.is_file()), None)
        if path is None:
            raise ConfigError(f"plugins: got {text!r}, wanted a file in {' or '.join(map(str, folders))}")
        if found.setdefault(path.name, path) != path:
            raise ConfigError(f"plugins: {found[path.name]} and {path} have one name, wanted two names")
    return tuple(map(str, found.values()))


def load_plugins(paths: Iterable[str | Path]) -> None:
    """Run those of the files whose content this process has not run yet.

    Raises:
        ConfigError: a file cannot be read, has an error, or registers nothing.
    """
    for path in paths:
        file = PluginFile.read(Path(path))
        if file.sha256 not in _loaded:
            _run(file)
            _loaded.add(file.sha256)


def plugin_hashes(paths: Sequence[str]) -> dict[str, str]:
    """SHA-256 of each file, by name."""
    return {Path(path).name: PluginFile.read(Path(path)).sha256 for path in paths}


def _run(file: PluginFile) -> None:
    # Compiled here: an import would leave bytecode beside the file, and take it for the file's own later.
    module = ModuleType(f"rtk_plugin_{file.path.stem}_{file.sha256[:12]}")
    module.__file__ = str(file.path)
    sys.modules[module.__name__] = module
    try:
        code = compile(file.path.read_bytes(), str(file.path), "exec")
        exec(code, module.__dict__)  # nosec B102  # a plug-in is the user's own program: docs/security.md
    except Exception as error:
        del sys.modules[module.__name__]
        message = error.msg if isinstance(error, SyntaxError) else str(error)
        reason = f"{type(error).__name__}: {' '.join(message.split())}"
        raise ConfigError(f"plugins: {file.path}, line {_line_of(error, file.path)}: {reason}") from error
    if file not in _owners.values():
        raise ConfigError(
            f"plugins: {file.path} registers nothing, wanted rtk.scores.register(...) or the like"
        )


def _line_of(error: Exception, path: Path) -> int | None:
    """The last line of a file that an error went through."""
    if isinstance(error, SyntaxError) and error.filename == str(path):
        return error.lineno
    lines = [
        frame.lineno for frame in traceback.extract_tb(error.__traceback__) if frame.filename == str(path)
    ]
    return lines[-1] if lines else None


def _calling_file() -> PluginFile:
    """The file outside rtk from which `register` was called."""
    frame = sys._getframe(1)
    while frame.f_back is not None and frame.f_globals.get("__name__", "").partition(".")[0] == "rtk":
        frame = frame.f_back
    path = Path(frame.f_globals.get("__file__") or INTERACTIVE)
    return PluginFile.read(path) if path.is_file() else PluginFile(Path(INTERACTIVE), "")
