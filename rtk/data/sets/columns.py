"""Parquet that others wrote: which column holds the images, which the classes, and what these are called."""

from __future__ import annotations

import json
from typing import Any

import pyarrow as pa

# Names of image columns on the Hugging Face hub (cifar100, mnist and many more), the likeliest first.
_IMAGE_NAMES = ("image", "img", "images", "picture", "photo")
_LABEL_NAMES = ("label", "labels")
_OTHER_COLUMNS = ("sample_id", "id", "image_id", "path", "file_name", "filename", "__index_level_0__")


def image_column(schema: pa.Schema) -> str:
    """The column with encoded images: binary, or struct `{bytes, path}` as the `datasets` library has it.

    Raises:
        ValueError: there is none, or more than one and none of them has a usual name.
    """
    found = [field.name for field in schema if holds_images(field.type)]
    usual = [name for name in _IMAGE_NAMES if name in found]
    chosen = usual[:1] or found
    if len(chosen) != 1:
        what = f"several columns of encoded images ({', '.join(found)})" if found else _listed(schema)
        raise ValueError(f"has {what}, wanted one column with images: image")
    return chosen[0]


def holds_images(kind: pa.DataType) -> bool:
    """Whether a column of this type can hold encoded images."""
    if pa.types.is_struct(kind):
        index = kind.get_field_index("bytes")
        return index >= 0 and holds_images(kind.field(index).type)
    return bool(pa.types.is_binary(kind) or pa.types.is_large_binary(kind))


def image_bytes(value: Any) -> tuple[bytes, str | None]:
    """Encoded bytes and path of one value of an image column; no bytes where there are none."""
    if isinstance(value, dict):
        return value["bytes"] or b"", value.get("path")
    return value or b"", None


def label_column(schema: pa.Schema, wanted: str | None) -> str:
    """The column with the classes: integers or strings.

    Args:
        schema: of the file.
        wanted: name that a person gave; None: the only one there is, or one of the usual name.

    Raises:
        ValueError: it is not there, or it is unclear which it is; the message names the option that decides.
    """
    possible = [
        field.name
        for field in schema
        if _is_label(field.type) and field.name not in _OTHER_COLUMNS and not holds_images(field.type)
    ]
    if wanted is not None:
        if wanted in schema.names and _is_label(schema.field(wanted).type):
            return wanted
        listed = ", ".join(possible) or "none"
        raise ValueError(f"--classes-from: got {wanted!r}, wanted a column of integers or strings ({listed})")
    named = [name for name in possible if class_names(schema, name)]
    chosen = [name for name in _LABEL_NAMES if name in possible][:1] or (
        named if len(named) == 1 else possible
    )
    if len(chosen) == 1:
        return chosen[0]
    if chosen:
        raise ValueError(
            f"has several columns that may be the classes ({', '.join(chosen)}), wanted --classes-from COLUMN"
        )
    raise ValueError(f"has {_listed(schema)}, wanted a label; --classes-from none takes images of no class")


def class_names(schema: pa.Schema, column: str) -> tuple[str, ...]:
    """Names of a column's integers, from the metadata that the `datasets` library writes; empty without."""
    stored = (schema.metadata or {}).get(b"huggingface")
    try:
        features = json.loads(stored or b"{}").get("info", {}).get("features", {})
        names = features.get(column, {}).get("names", ())
    except (ValueError, AttributeError):  # of another form, such as that of a future version
        return ()
    return tuple(names) if isinstance(names, list) and all(isinstance(name, str) for name in names) else ()


def is_text(kind: pa.DataType) -> bool:
    """Whether a column of this type holds strings, also as a dictionary (pandas: a categorical)."""
    kind = kind.value_type if pa.types.is_dictionary(kind) else kind
    return bool(pa.types.is_string(kind) or pa.types.is_large_string(kind))


def _is_label(kind: pa.DataType) -> bool:
    return bool(pa.types.is_integer(kind)) or is_text(kind)


def _listed(schema: pa.Schema) -> str:
    return f"columns {', '.join(schema.names)}"
