"""A file on object storage, parts of which are fetched once and held: each request there takes tens of ms."""

from __future__ import annotations

import pyarrow as pa

MOST_HELD = 2**28  # bytes held at a time; of larger parts each piece is a request of its own


class HeldFile:
    """What `pyarrow.PythonFile` reads from.

    Args:
        file: open file.
    """

    closed = False

    def __init__(self, file: pa.NativeFile) -> None:
        self._file, self._size, self._place = file, int(file.size()), 0
        self._held: list[tuple[int, bytes]] = []

    def hold(self, ranges: list[tuple[int, int]]) -> None:
        """Fetch some parts (begin, end), and let go of those from before; none where they are too large."""
        within = [(begin, min(end, self._size)) for begin, end in ranges if 0 <= begin < self._size]
        self._held = []
        if sum(end - begin for begin, end in within) <= MOST_HELD:
            self._held = [(begin, self._file.read_at(end - begin, begin)) for begin, end in within]

    def size(self) -> int:
        """Bytes of the file."""
        return self._size

    def read_at(self, count: int, place: int) -> bytes:
        """Up to so many bytes from a place on."""
        count = max(0, min(count, self._size - place))
        for begin, data in self._held:
            if begin <= place and place + count <= begin + len(data):
                return data[place - begin : place - begin + count]
        return bytes(self._file.read_at(count, place))

    def read(self, count: int = -1) -> bytes:
        """Up to so many bytes from where the last read ended; negative: all."""
        data = self.read_at(self._size - self._place if count < 0 else count, self._place)
        self._place += len(data)
        return data

    def seek(self, place: int, whence: int = 0) -> int:
        """Go to a place, counted from the beginning, from here (1) or from the end (2)."""
        self._place = place + (0, self._place, self._size)[whence]
        return self._place

    def tell(self) -> int:
        """Where the next read begins."""
        return self._place

    def readable(self) -> bool:
        """It is."""
        return True

    def seekable(self) -> bool:
        """It is."""
        return True

    def close(self) -> None:
        """Let go of what is held; who opened the file closes it."""
        self._held, self.closed = [], True
