"""The types of the schema, walked by the names under which they stand."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from pydantic import BaseModel
from pydantic.fields import FieldInfo


def inner(kind: Any, part: int | str) -> Any:
    """What stands under a name or number: the field of a section, a type, or None where there is nothing."""
    origin, arguments = get_origin(kind), get_args(kind)
    if is_section(kind):
        return kind.model_fields.get(str(part))
    if origin is dict and part != "[key]":
        return arguments[1]
    if origin is tuple and isinstance(part, int):
        return arguments[0] if arguments[-1] is ... else arguments[part] if part < len(arguments) else None
    return None


def plain(kind: Any) -> Any:
    """A type without its limits, and without null where that is the only other choice."""
    if isinstance(kind, FieldInfo):
        return plain(kind.annotation)
    if get_origin(kind) is Annotated:
        return plain(get_args(kind)[0])
    if get_origin(kind) in (Union, UnionType):
        others = [argument for argument in get_args(kind) if argument is not NoneType]
        return plain(others[0]) if len(others) == 1 else kind
    return kind


def is_section(kind: Any) -> bool:
    """Whether a type is a block of keys."""
    return isinstance(kind, type) and issubclass(kind, BaseModel)


def choices(kind: Any) -> tuple[Any, ...]:
    """Values that a type spells out."""
    if get_origin(kind) is Literal:
        return get_args(kind)
    return tuple(choice for part in get_args(kind) for choice in choices(part))


def is_text(kind: Any) -> bool:
    """Whether a type has room for text (and null) alone."""
    words = choices(kind) if get_origin(kind) is Literal else ()
    return kind is str or (bool(words) and all(isinstance(word, str) for word in words))


def key_parts(names: Iterable[str], model: type[BaseModel]) -> tuple[str, ...]:
    """The parts of a key: names are cut at dots, but one that the user chooses stays whole.

    So the set `places365.v2` of `data.near_ood` is one part. Names may be cut already, as in a tree.
    """
    parts: list[str] = []
    kind: Any = model
    for name in names:
        rest = name
        while rest:
            chosen = kind is str or (get_origin(kind) is dict and get_args(kind)[1] is str)
            part, rest = (rest, "") if chosen else rest.partition(".")[::2]
            parts.append(part)
            kind = str if kind is str else plain(inner(kind, part))
    return tuple(parts)


def wants_text(model: type[BaseModel], path: Sequence[int | str]) -> bool:
    """Whether a schema has text alone at a path of names, which may be dotted, and then places in a list."""
    kind: Any = model
    names = [part for part in path if isinstance(part, str)]
    parts: list[int | str] = [*key_parts(names, model)]
    for part in [*parts, *(part for part in path if isinstance(part, int))]:
        alternatives = get_args(kind) if get_origin(kind) in (Union, UnionType) else (kind,)
        below = (inner(each, part) for each in alternatives)
        kind = plain(next((each for each in below if each is not None), None))
    return is_text(kind)
