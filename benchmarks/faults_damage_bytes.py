"""Ways to damage bytes, trees (JSON, YAML), safetensors and images, as strategies of hypothesis."""

from __future__ import annotations

import copy
import io
import json
import math
import struct
import zlib
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
from hypothesis import strategies as st
from PIL import Image

Draw = Callable[[st.SearchStrategy[Any]], Any]

TEXTS = (
    "../../../evil /etc/passwd a/b .. \x1b[31mred \x1b]0;title\x07 \u202etxt \x00nul "
    "{0.__class__} %s%n%x ${HOME} $(id)",
    "<script>alert(1)</script>",
    '"><img src=x onerror=alert(1)>',
    "line\nbreak",
    "\udcff\ud800".encode("utf-8", "surrogatepass").decode("utf-8", "replace"),
    "'; DROP TABLE runs; --",
    "[/bold][link=x]",
    "{{ 7*7 }}{% for x in y %}",
    "file:///etc/passwd",
    "s3://bucket",
    "models:/x/1",
    "https://user:password@host/x",
)
NUMBERS = (-1, 0, 1, 7, 2**31, 2**53 + 1, 2**63, 2**64, 10**30, 10**400, 1e308, 1e-320, math.nan, math.inf)


def nested(depth: int, as_list: bool) -> Any:
    """A list or mapping in itself so many times."""
    tree: Any = 1
    for _ in range(depth):
        tree = [tree] if as_list else {"a": tree}
    return tree


JUNK: st.SearchStrategy[Any] = st.one_of(
    st.sampled_from([None, True, False, "", "x" * 5000, [], [[]], {}, {"a": {"b": []}}]),
    st.sampled_from([*" ".join(TEXTS[:1]).split(" "), *TEXTS[1:]]),
    st.sampled_from(NUMBERS),
    st.builds(nested, st.sampled_from([3, 60, 400]), st.booleans()),
    st.integers(),
    st.floats(),
    st.text(max_size=20),
    st.lists(st.one_of(st.integers(), st.text(max_size=5), st.none()), max_size=5),
    st.dictionaries(st.text(max_size=5), st.integers(), max_size=3),
)


def _flip(draw: Draw, data: bytearray, at: int) -> None:
    data[at] ^= 1 << draw(st.integers(0, 7))


def _cut(draw: Draw, data: bytearray, at: int) -> None:
    del data[at:]


def _drop(draw: Draw, data: bytearray, at: int) -> None:
    del data[at : at + draw(st.sampled_from([1, 4, 64, 1000]))]


def _insert(draw: Draw, data: bytearray, at: int) -> None:
    data[at:at] = draw(st.binary(max_size=40))


def _extreme(draw: Draw, data: bytearray, at: int) -> None:
    form = draw(st.sampled_from(["<I", ">I", "<Q", ">Q", "<H", ">H"]))
    most = 2 ** (8 * struct.calcsize(form)) - 1
    number = draw(st.sampled_from([0, 1, most, most // 2, most // 2 + 1, most // 256]))
    data[at : at + struct.calcsize(form)] = struct.pack(form, number)


def _repeat(draw: Draw, data: bytearray, at: int) -> None:
    data[at:at] = data[at : at + draw(st.sampled_from([4, 64, 512]))] * draw(st.sampled_from([1, 3, 50]))


WAYS = (_flip, _flip, _cut, _drop, _insert, _extreme, _repeat)


def damaged(draw: Draw, data: bytes) -> bytes:
    """Bytes with one to four damages."""
    own = bytearray(data)
    for _ in range(draw(st.integers(1, 4))):
        if own:
            # Heads of files hold what is believed: half of the damage goes there. What is drawn does not
            # depend on the length, which differs from process to process where PyTorch writes addresses.
            reach = min(200, len(own)) if draw(st.booleans()) else len(own)
            draw(st.sampled_from(WAYS))(draw, own, draw(st.integers(0, 2**20 - 1)) * reach >> 20)
    return bytes(own)


def places(tree: Any, above: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Ways to everything in a tree."""
    pairs = tree.items() if isinstance(tree, dict) else enumerate(tree) if isinstance(tree, list) else ()
    for key, value in pairs:
        yield (*above, key)
        yield from places(value, (*above, key))


def damaged_tree(draw: Draw, tree: Any) -> Any:
    """A tree in which one to three things are gone, renamed or something else."""
    own = copy.deepcopy(tree)
    for _ in range(draw(st.sampled_from([1, 1, 1, 2, 3]))):
        ways = list(places(own))
        if not ways or draw(st.integers(0, 40)) == 0:
            return draw(JUNK)
        *above, last = draw(st.sampled_from(ways))
        node = own
        for part in above:
            node = node[part]
        how = draw(st.sampled_from(["replace", "replace", "replace", "drop", "add"]))
        if how == "replace":
            node[last] = draw(JUNK)
        elif how == "drop":
            del node[last]
        elif isinstance(node, dict):
            node[draw(st.sampled_from([*TEXTS[1:], "x"]))] = draw(JUNK)
        else:
            node.append(draw(JUNK))
    return own


def damaged_json(draw: Draw, text: str) -> bytes:
    """JSON whose tree or bytes are damaged."""
    if draw(st.integers(0, 3)) == 0:
        return damaged(draw, text.encode())
    return json.dumps(damaged_tree(draw, json.loads(text))).encode()


def damaged_safetensors(draw: Draw, data: bytes) -> bytes:
    """A safetensors file whose header, numbers or bytes are damaged."""
    size = struct.unpack("<Q", data[:8])[0]
    header, body = json.loads(data[8 : 8 + size]), data[8 + size :]
    how = draw(st.sampled_from(["header", "header", "bytes", "body", "length"]))
    if how == "bytes":
        return damaged(draw, data)
    if how == "header":
        header = damaged_tree(draw, header)
    elif how == "body":
        body = body[: draw(st.integers(0, 2**20)) * len(body) >> 20] + draw(st.binary(max_size=8))
    else:
        value = draw(JUNK.filter(lambda x: isinstance(x, int)))
        return struct.pack("<Q", value % 2**64) + data[8:]
    text = json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + body


def chunk(kind: bytes, data: bytes) -> bytes:
    """A chunk of a PNG file."""
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png(width: int, height: int, depth: int = 8, colour: int = 2, pixels: int | None = None) -> bytes:
    """A PNG file that claims a size, of which so many bytes of zeros are there (None: all)."""
    head = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0)
    packer = zlib.compressobj(1)
    channels = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}.get(colour, 1)
    left = height * (1 + width * channels * depth // 8) if pixels is None else pixels
    parts = []
    while left > 0:
        parts.append(packer.compress(bytes(min(left, 2**20))))
        left -= 2**20
    data = b"".join(parts) + packer.flush()
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", data) + chunk(b"IEND", b"")


def picture(form: str, number: int = 0, mode: str = "RGB") -> bytes:
    """A small whole image file."""
    pixels = np.random.default_rng(number).integers(0, 256, (16, 16, 3), dtype=np.uint8)
    stream = io.BytesIO()
    Image.fromarray(pixels).convert(mode).save(stream, form)
    return stream.getvalue()


FORMS = ("PNG", "JPEG", "GIF", "BMP", "WEBP", "TIFF", "PPM")
DIMENSIONS = st.sampled_from([0, 1, 3, 16, 1000, 9459, 65535, 2**31 - 1, 2**32 - 1])


def damaged_image(draw: Draw) -> bytes:
    """An image file with damaged bytes, or a PNG that claims what it does not hold."""
    if draw(st.integers(0, 4)) == 0:
        depth, colour = draw(st.sampled_from([1, 8, 16, 77])), draw(st.sampled_from([0, 2, 3, 4, 6, 9]))
        return png(draw(DIMENSIONS), draw(DIMENSIONS), depth, colour, draw(st.sampled_from([0, 10, 10**5])))
    return damaged(draw, picture(draw(st.sampled_from(FORMS))))
