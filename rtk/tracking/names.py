"""Names that users choose, as MLflow allows them.

MLflow takes letters and digits of any script and ``_ - . : /`` and blanks, and refuses a whole batch for one
other character. So a set called `cats+dogs (50%)` is sent as `cats_x2b_dogs _x28_50_x25__x29_`: a character
that is not allowed becomes its code point in hexadecimal between `_x` and `_`. Names that are allowed already
stay what they are, and no two names become the same.
"""

from __future__ import annotations

import hashlib
import re
from pathlib import Path

LONGEST_NAME = 250  # of a metric, param or tag, in MLflow
_HASH_DIGITS = 16
EMPTY = "_x_"  # the name of no characters

# Not allowed, or read as a part of a path that goes elsewhere: an empty one, `.`, `..`, dots at the start. An
# underline that would read as the start of a code is written as a code itself.
_CODE_LIKE = r"_(?=x[0-9a-f])|^_(?=x_$)"
_KEY = re.compile(rf"[^/\w.\- :]|{_CODE_LIKE}|(?:^|(?<=/))/|/$|(?:^|(?<=/))\.(?=\.?(?:/|$))|^\.(?=\.)")
_MODEL = re.compile(rf"[/:]|{_CODE_LIKE}|^\.(?=\.|$)|^\s(?=\s*$)")


def mlflow_key(name: str) -> str:
    """Name of a metric, param or tag in MLflow; one that is too long ends in a hash."""
    return _shortened(_KEY.sub(_code, name) or EMPTY)


def mlflow_model(name: str) -> str:
    """Name of a registered model in MLflow, which may hold anything but `/` and `:`."""
    return _shortened(_MODEL.sub(_code, name) or EMPTY)


def _code(found: re.Match[str]) -> str:
    return f"_x{ord(found[0]):x}_"


def _shortened(name: str) -> str:
    if len(name) <= LONGEST_NAME:
        return name
    digest = hashlib.sha256(name.encode()).hexdigest()[:_HASH_DIGITS]
    return f"{name[: LONGEST_NAME - _HASH_DIGITS - 2]}_h{digest}"


def uri_of_output(output: Path) -> str:
    """The database of the runs in a folder, where a recipe names no server."""
    return sqlite_uri(output / "mlflow.db")


def sqlite_uri(file: Path) -> str:
    """URI by which MLflow opens an SQLite file, whatever characters its path has."""
    return f"sqlite:///{str(file).replace('%', '%25').replace('?', '%3F')}"
