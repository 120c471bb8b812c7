"""Parquet files read in pieces of bounded size, whatever they say of themselves: a kB can expand to any size.

A page is what is decompressed at once, and a dictionary's page lets every row repeat its longest value. So
the headers of all pages of a row group are looked at before any of them is decoded, and rows are decoded so
few at a time that the longest possible ones fit. (The footer tells neither: it has sums over pages, before
dictionaries are resolved, and may lie.)
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq
from pyarrow import fs

from rtk.runs.held_file import HeldFile
from rtk.runs.parquet_pages import Page, chunk_range, read_pages

READ_BYTES = 2**20  # of a column fetched at a time: by default whole column chunks are, possibly gigabytes
PIECE_BYTES = 2**26  # that may always be decoded at once
TABLE_BYTES = 2**28  # the same of whole columns: a model that says the same of all makes tiny files
LISTS_BYTES = 2**29  # the same of lists of numbers, such as 8192 rows of 8192 features
MOST_EXPANSION = 10  # times that what is larger may be as large as it is stored
ALL_BYTES = 2**30  # that all that is read of a file may always come to; more is a matter of time, not memory
MOST_REPEATED = 1000  # times that it may be as large as the file; more is no data
_VALUE_BYTES = 12  # of a number, or of the length and place of a text, with its levels


class Sizes(NamedTuple):
    """Bytes of the chosen columns of a row group.

    Attributes:
        page_stored: of the largest page of each column, in the file.
        page: of the same once they are decompressed, and their numbers of values made room for.
        lists_stored: of the columns of lists, in the file.
        lists: of all values of these: nothing bounds how many of them are one row's.
        row: of the longest row that the other columns may have.
        rows: of all their rows.
    """

    page_stored: int = 0
    page: int = 0
    lists_stored: int = 0
    lists: int = 0
    row: int = 0
    rows: int = 0


class BoundedParquet:
    """An open Parquet file.

    Args:
        file: what to read.
        name: what to call it in messages.
        is_far: each request to it takes long: fetch what is wanted of a row group at once.

    Raises:
        ValueError: it is no Parquet file.
    """

    def __init__(self, file: pa.NativeFile, name: str, is_far: bool = False) -> None:
        self.name, self._decoded = name, 0
        self._far = HeldFile(file) if is_far else None
        self._file = self._far or file
        source = pa.PythonFile(self._far, mode="r") if self._far else file
        self._parquet = pq.ParquetFile(source, pre_buffer=False, buffer_size=READ_BYTES)
        self.metadata, self.schema = self._parquet.metadata, self._parquet.schema_arrow

    def batches(
        self, rows: int, columns: Sequence[str] | None = None, groups: Sequence[int] | None = None
    ) -> Iterator[pa.RecordBatch]:
        """Consecutive rows: `rows` at a time, fewer where they are large.

        Args:
            rows: the most of a batch.
            columns: names of columns; None: all.
            groups: numbers of row groups; None: all.

        Raises:
            ValueError: pages or rows expand to more than they may; names the file and the sizes.
        """
        wanted = range(self.metadata.num_row_groups) if groups is None else groups
        return _regrouped((part for group in wanted for part in self._of_group(group, rows, columns)), rows)

    def table(self, columns: Sequence[str] | None = None) -> pa.Table:
        """All rows at once.

        Raises:
            ValueError: they expand to more than they may; names the file and the sizes.
        """
        names = list(self.schema.names if columns is None else columns)
        stored = self._file.size()
        check_expansion(self.name, "its rows", self.metadata.num_rows * len(names), stored, TABLE_BYTES)
        size, parts = 0, []
        for part in self.batches(2**16, names):
            size += part.nbytes
            check_expansion(self.name, "its rows", size, stored, TABLE_BYTES)
            parts.append(part)
        schema = pa.schema([self.schema.field(name) for name in names])
        return pa.Table.from_batches(parts, None if parts else schema)

    def _of_group(self, group: int, rows: int, columns: Sequence[str] | None) -> Iterator[pa.RecordBatch]:
        if self._far is not None:
            self._far.hold([chunk_range(chunk) for _, chunk in self._chunks(group, columns)])
        sizes = self.check(group, columns)
        fitting = rows if sizes.rows <= PIECE_BYTES else max(1, min(rows, PIECE_BYTES // sizes.row))
        for batch in self._parquet.iter_batches(fitting, row_groups=[group], columns=columns):
            self._decoded += batch.nbytes
            check_expansion(
                self.name, "what is read of it", self._decoded, self._file.size(), ALL_BYTES, MOST_REPEATED
            )
            yield batch
            del batch

    def check(self, group: int, columns: Sequence[str] | None = None) -> Sizes:
        """What a row group may take, read from the headers of its pages; nothing is decoded.

        Raises:
            ValueError: pages or lists expand to more than they may; names the file and the sizes.
        """
        sizes = self._look(group, columns)
        check_expansion(self.name, f"the pages of row group {group}", sizes.page, sizes.page_stored)
        lists = f"the lists of row group {group}"
        check_expansion(self.name, lists, sizes.lists, sizes.lists_stored, LISTS_BYTES)
        return sizes

    def _look(self, group: int, columns: Sequence[str] | None) -> Sizes:
        """What the headers of all pages of a row group's columns say."""
        found = [Sizes()]
        for leaf, chunk in self._chunks(group, columns):
            try:
                found.append(_sizes(leaf, read_pages(self._file, chunk)))
            except ValueError as error:
                raise ValueError(f"{self.name}: damaged: {error} (column {leaf.path!r})") from None
        return Sizes(*map(sum, zip(*found, strict=True)))

    def _chunks(
        self, group: int, columns: Sequence[str] | None
    ) -> Iterator[tuple[pq.ColumnSchema, pq.ColumnChunkMetaData]]:
        """The chosen columns of a row group, and where they are."""
        metadata = self.metadata.row_group(group)
        for number in range(metadata.num_columns):
            leaf = self.metadata.schema.column(number)
            if columns is None or any(f"{leaf.path}.".startswith(f"{name}.") for name in columns):
                yield leaf, metadata.column(number)


def check_expansion(
    name: object, what: str, expanded: int, stored: int, allowed: int | None = None, most: int | None = None
) -> None:
    """Refuse what expands hugely: to more than a number of bytes, and many times what is stored of it.

    Args:
        name: of the file.
        what: which part of it.
        expanded: bytes that it may take in memory.
        stored: bytes that it takes in the file.
        allowed: bytes that it may always take; None: `PIECE_BYTES`.
        most: how many times as large as stored it may be; None: `MOST_EXPANSION`.

    Raises:
        ValueError: it is too much; names the file and the sizes.
    """
    allowed = PIECE_BYTES if allowed is None else allowed
    most = MOST_EXPANSION if most is None else most
    if expanded > max(allowed, most * stored):
        raise ValueError(
            f"{name}: {what} may expand to {expanded / 2**20:,.0f} MiB from {stored / 2**20:,.3f} MiB in the "
            f"file, wanted at most {allowed / 2**20:,.0f} MiB, or {most} times what is stored "
            "(in Parquet that is no attack, smaller pages and row groups help)"
        )


@contextmanager
def open_bounded(file: str | Path, filesystem: fs.FileSystem | None = None) -> Iterator[BoundedParquet]:
    """Open a Parquet file to read it in pieces of bounded size.

    Args:
        file: as the filesystem names it.
        filesystem: where it is; None: here.

    Raises:
        OSError: it cannot be opened.
        ValueError: it is no Parquet file.
    """
    filesystem = filesystem or fs.LocalFileSystem()
    with filesystem.open_input_file(str(file)) as opened:
        yield BoundedParquet(opened, str(file), is_far=not isinstance(filesystem, fs.LocalFileSystem))


def _sizes(leaf: pq.ColumnSchema, pages: Iterable[Page]) -> Sizes:
    """What the pages of one column may decode to."""
    repeated, text = leaf.max_repetition_level > 0, leaf.physical_type == "BYTE_ARRAY"
    width = max(_VALUE_BYTES, leaf.length or 0)
    stored = values = everything = longest = 0
    largest, written_out = (0, 0), True
    for page in pages:
        stored, everything = stored + page.stored, everything + page.expanded
        values += 0 if page.is_dictionary else page.values
        longest = max(longest, page.expanded)
        room = page.values * _VALUE_BYTES if text else 0
        largest = max(largest, (max(page.expanded, room), page.stored))
        written_out &= page.plain and not page.is_dictionary
    row = max(width, longest) if text else width
    rows = everything + values * _VALUE_BYTES if text and written_out else values * row
    if repeated:
        return Sizes(largest[1], largest[0], stored, rows)
    return Sizes(largest[1], largest[0], row=row, rows=rows)


def _regrouped(parts: Iterator[pa.RecordBatch], rows: int) -> Iterator[pa.RecordBatch]:
    """The same rows, `rows` at a time, or as many as `PIECE_BYTES` hold."""
    held: list[pa.RecordBatch] = []
    count = size = 0
    for part in parts:
        while len(part):
            taken = part.slice(0, rows - count)
            if held and (count == rows or size + taken.nbytes > PIECE_BYTES):
                yield _joined(held)
                held, count, size = [], 0, 0
                continue
            part = part.slice(len(taken))
            held.append(taken)
            count, size = count + len(taken), size + taken.nbytes
            del taken
        del part  # or it would be in memory beside the next one
    if held:
        yield _joined(held)


def _joined(parts: list[pa.RecordBatch]) -> pa.RecordBatch:
    return parts[0] if len(parts) == 1 else pa.Table.from_batches(parts).combine_chunks().to_batches()[0]
