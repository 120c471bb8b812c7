"""The headers of a Parquet file's pages: what they say that their pages hold, read without decoding any.

They say more than the footer, and a decoder allocates by them. In Thrift's compact protocol (the file
`parquet.thrift` of apache/parquet-format; `thrift-compact-protocol.md` of apache/thrift).
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple, Protocol

import pyarrow.parquet as pq

_WINDOW = 2**13  # bytes read for a header, which mostly has some 30
_LONGEST = 2**24  # of a header, in Arrow's reader too
_PADDING = 100  # bytes by which old writers state a chunk too short (PARQUET-816)
_DEEPEST = 16  # structures in one another
_TRUE, _FALSE, _BYTE, _I64, _DOUBLE, _BINARY, _LIST, _SET, _MAP, _STRUCT = 1, 2, 3, 6, 7, 8, 9, 10, 11, 12
_DICTIONARY, _PLAIN = 2, 0
_ABOUT = {0: (5, 2), _DICTIONARY: (7, 2), 3: (8, 4)}  # by kind: fields with values, and with their encoding


class Page(NamedTuple):
    """What a header says of its page.

    Attributes:
        stored: bytes in the file.
        expanded: bytes once decompressed.
        values: how many values it holds; 0 of a page of another kind, which is skipped.
        plain: whether the values are written out one after the other, and take no more than `expanded`.
        is_dictionary: whether others refer to its values.
    """

    stored: int
    expanded: int
    values: int
    plain: bool
    is_dictionary: bool


class Readable(Protocol):
    """A file that is read at places."""

    def size(self) -> int:
        """Bytes of the file."""

    def read_at(self, count: int, place: int, /) -> bytes:
        """Up to so many bytes from a place on."""


def chunk_range(chunk: pq.ColumnChunkMetaData) -> tuple[int, int]:
    """Where one column of a row group begins, and where what is read of it ends at last, by its footer."""
    begin = _start(chunk)
    return begin, begin + chunk.total_compressed_size + _WINDOW


def read_pages(file: Readable, chunk: pq.ColumnChunkMetaData) -> Iterator[Page]:
    """The pages of one column of a row group.

    Args:
        file: open file.
        chunk: where its footer says that they are.

    Raises:
        ValueError: no header is where one must be, or a page reaches beyond the file.
    """
    place, left, size = _start(chunk), chunk.num_values, file.size()
    end = place + chunk.total_compressed_size
    while left > 0 and place < end + _PADDING:  # as a decoder does, which looks no further either
        try:
            page, length = _read_header(file, place, size)
        except ValueError:
            if place >= end:
                return
            raise
        place += length + page.stored
        if page.stored < 0 or page.expanded < 0 or page.values < 0 or place > size:
            raise ValueError(f"a page of {page.stored:,} bytes that reaches beyond the file's {size:,}")
        left -= 0 if page.is_dictionary else page.values
        yield page


def _start(chunk: pq.ColumnChunkMetaData) -> int:
    dictionary = chunk.dictionary_page_offset or 0
    return min(chunk.data_page_offset, dictionary) if dictionary > 0 else chunk.data_page_offset


def _read_header(file: Readable, place: int, size: int) -> tuple[Page, int]:
    """The header at a place, and its length in bytes."""
    window = _WINDOW
    while True:
        reader = _Compact(file.read_at(min(window, size - place), place) if 0 <= place < size else b"")
        try:
            return _as_page(reader.structure()), reader.place
        except IndexError:
            if window >= _LONGEST or place + window >= size:
                raise ValueError("a header of a page that has no end") from None
            window *= 16


def _as_page(fields: dict[int, Any]) -> Page:
    kind, expanded, stored = (_number(fields, field) for field in (1, 2, 3))
    if kind not in _ABOUT:
        return Page(stored, expanded, 0, False, False)
    about, encoding = _ABOUT[kind]
    more = fields.get(about)
    if not isinstance(more, dict):
        raise ValueError(f"a header of a page of kind {kind} without what it says of its values")
    return Page(stored, expanded, _number(more, 1), _number(more, encoding) == _PLAIN, kind == _DICTIONARY)


def _number(fields: dict[int, Any], field: int) -> int:
    found = fields.get(field)
    if not isinstance(found, int):
        raise ValueError("a header of a page without its sizes")
    return found


class _Compact:
    """Reads Thrift's compact protocol; `IndexError` where the bytes end."""

    def __init__(self, data: bytes) -> None:
        self.data, self.place = data, 0

    def structure(self, depth: int = 0) -> dict[int, Any]:
        """Integers and structures by the numbers of their fields; all else is skipped, as None."""
        if depth > _DEEPEST:
            raise ValueError("a header of a page of too many levels")
        fields: dict[int, Any] = {}
        number = 0
        while head := self._byte():
            number = number + (head >> 4) if head >> 4 else self._integer()
            if number in fields:
                raise ValueError(f"a header of a page with field {number} twice")
            fields[number] = self._value(head & 15, depth)
        return fields

    def _byte(self) -> int:
        self.place += 1
        return self.data[self.place - 1]

    def _unsigned(self) -> int:
        value = shift = 0
        while True:
            byte = self._byte()
            value |= (byte & 127) << shift
            shift += 7
            if byte < 128:
                return value
            if shift > 63:
                raise ValueError("a header of a page with a number of more than 64 bits")

    def _integer(self) -> int:
        value = self._unsigned()
        return (value >> 1) ^ -(value & 1)

    def _skip(self, length: int) -> None:
        self.place += length
        if self.place > len(self.data):
            raise IndexError

    def _value(self, kind: int, depth: int) -> Any:
        if kind in (_TRUE, _FALSE):
            return None
        if _BYTE < kind <= _I64:
            return self._integer()
        if kind == _STRUCT:
            return self.structure(depth + 1)
        if kind in (_BYTE, _DOUBLE, _BINARY):
            self._skip({_BYTE: 1, _DOUBLE: 8}.get(kind) or self._unsigned())
            return None
        if kind in (_LIST, _SET, _MAP):
            raise ValueError("a header of a page with a list, which Parquet has none in")
        raise ValueError(f"a header of a page with a field of unknown type {kind}")
