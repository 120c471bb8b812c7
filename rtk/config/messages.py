"""What a value that does not fit is answered with: its key, what was got and what was wanted.

pydantic finds the fault; its own words, which speak of its types, never reach a user.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple, get_args, get_origin

from pydantic import BaseModel, TypeAdapter, ValidationError
from pydantic.fields import FieldInfo
from pydantic_core import ErrorDetails
from yaml import YAMLError

from rtk.config.errors import nearest, unknown
from rtk.config.kinds import choices, inner, is_section, plain
from rtk.config.yaml_files import dump_value

LONGEST = 80  # characters of a value that is quoted
# By the beginning of the type of pydantic's error; `{...}` are values of its context.
WANTED = {
    "greater_than_equal": "a number of at least {ge:g}",
    "greater_than": "a number greater than {gt:g}",
    "less_than_equal": "a number of at most {le:g}",
    "less_than": "a number less than {lt:g}",
    "finite_number": "a finite number",
    "int": "a whole number",
    "float": "a number",
    "bool": "true or false",
    "literal_error": "{expected}",
    "string_pattern": "text of the form {pattern}",
}


class Place(NamedTuple):
    """Where a fault is: its dotted key, what the schema has there, and the field of a section around it."""

    key: str
    kind: Any
    field: FieldInfo | None


def one_line(error: ValidationError, model: type[BaseModel]) -> str:
    """The first fault that was found, as one line.

    Args:
        error: what pydantic found.
        model: what the tree should have been.
    """
    faults = error.errors()
    first, place = faults[0], _place(model, faults[0])
    kind, last = first["type"], (first["loc"] or ("",))[-1]
    if kind == "value_error":
        return _own_words(first, place)
    if kind == "extra_forbidden":
        above = f"{place.key}." if place.key else ""
        return unknown("key", f"{above}{last}", [above + name for name in place.kind.model_fields])
    if kind == "invalid_key" or last == "[key]":
        return f"{place.key}: got the name {first['input']!r}, wanted text".removeprefix(": ")
    if kind == "missing" and isinstance(last, str):
        return f"{place.key}: missing, wanted {_wanted_missing(place)}"
    alike = [fault for fault in faults if _place(model, fault).key == place.key]
    direct = [fault for fault in alike if len(fault["loc"]) == len(first["loc"])]  # one for each alternative
    wanted = dict.fromkeys(_wanted(fault, place) for fault in direct)
    return f"{place.key}: got {_quoted(first['input'])}, wanted {' or '.join(wanted)}"


def _place(model: type[BaseModel], fault: ErrorDetails) -> Place:
    """As far as the schema goes: pydantic's locations go on with the names of alternatives."""
    loc = fault["loc"]
    if fault["type"] == "missing" and isinstance(loc[-1], int):
        loc = loc[:-1]  # a list that is too short
    place = Place("", model, None)
    for part in loc:
        below = inner(place.kind, part)
        if below is None:
            break
        field = below if isinstance(below, FieldInfo) else place.field
        place = Place(f"{place.key}.{part}".lstrip("."), plain(below), field)
    return place


def _own_words(fault: ErrorDetails, place: Place) -> str:
    """What rtk's own checks say, which name a field of the section, or several keys, or nothing."""
    message = fault["msg"].removeprefix("Value error, ")
    if not place.key or message.startswith(place.key):
        return message
    if is_section(place.kind) and message.partition(":")[0] in place.kind.model_fields:
        return f"{place.key}.{message}"
    if isinstance(fault["input"], Mapping):
        return f"{place.key}: {message}"
    return f"{place.key}: got {_quoted(fault['input'])}, {message}"


def _wanted(fault: ErrorDetails, place: Place) -> str:
    kind, value = fault["type"], fault["input"]
    words = [word for word in choices(place.kind) if isinstance(word, str)]
    if kind == "literal_error" and isinstance(value, str) and len(words) > 2:
        return f"{fault['ctx']['expected']} (nearest: {nearest(value, words)!r})"
    for beginning, wanted in WANTED.items():
        if kind.startswith(beginning):
            return wanted.format(**fault.get("ctx", {}))
    if kind == "string_type":
        return f"text such as {dump_value(str(value))}" if isinstance(value, int | float) else "text"
    if kind == "model_type":
        return f"a mapping of keys such as {_example(place.kind, place.key, value)}"
    if kind == "dict_type":
        return f"a mapping such as {place.key}.NAME=..."
    if kind in ("tuple_type", "missing", "too_long", "too_short"):
        return _wanted_list(fault, place)
    return f"another value (rtk recipes keys {place.key})"


def _wanted_missing(place: Place) -> str:
    if is_section(place.kind):
        return f"a mapping of keys such as {_example(place.kind, place.key, None)}"
    return "a value" + (f" (set it in the recipe or as {place.key}=...)" if "." in place.key else "")


def _wanted_list(fault: ErrorDetails, place: Place) -> str:
    arguments, value = get_args(place.kind), fault["input"]
    if get_origin(place.kind) is dict:
        return "at least one entry"
    default = place.field.get_default(call_default_factory=True) if place.field else None
    if ... not in arguments:
        example = f" such as {place.key}={dump_value(default)}" if default else ""
        return f"a list of {len(arguments)} values{example}"
    if fault["type"] == "tuple_type":
        return f"a list such as {place.key}={dump_value([value] if _fits(place.kind, [value]) else default)}"
    return "at least one value"


def _fits(kind: Any, value: Any) -> bool:
    try:
        TypeAdapter(kind).validate_python(value)
    except ValidationError:
        return False
    return True


def _example(section: type[BaseModel], key: str, value: Any) -> str:
    """A `key=value` below a section: one that may have the value, or else the first, with its default."""
    fields = dict(_leaves(section, key))
    fitting = [name for name, field in fields.items() if value in choices(field.annotation)]
    if fitting and isinstance(value, str):
        return f"{fitting[0]}={value}"
    name, field = next(iter(fields.items()))
    default = field.get_default(call_default_factory=True)
    return f"{name}={'...' if field.is_required() or default is None else dump_value(default)}"


def _leaves(section: type[BaseModel], key: str) -> Iterator[tuple[str, FieldInfo]]:
    for name, field in section.model_fields.items():
        kind = plain(field.annotation)
        if is_section(kind):
            yield from _leaves(kind, f"{key}.{name}")
        else:
            yield f"{key}.{name}", field


def _quoted(value: Any) -> str:
    """A value as it stands in a recipe, cut where it is long."""
    try:
        text = repr(value) if isinstance(value, str | float) else dump_value(value)
    except YAMLError:  # it came from Python
        text = repr(value)
    return text if len(text) <= LONGEST else f"{text[: LONGEST - 3]}..."
