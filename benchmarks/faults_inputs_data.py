"""Inputs of data: images, Parquet, archives, and files of weights."""

from __future__ import annotations

import gzip
import io
import json
import pickle
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from faults_damage_bytes import (
    JUNK,
    Draw,
    damaged,
    damaged_image,
    damaged_json,
    damaged_safetensors,
    picture,
)
from faults_given import (
    NO_RUNS,
    PACKAGE,
    Content,
    Input,
    damaged_parquet,
    sample,
    tar,
)
from hypothesis import strategies as st


def weights(draw: Draw, samples: Path) -> Input:
    """A file of weights, by PyTorch or safetensors, imported and started from."""
    data = sample(samples / PACKAGE / "weights.safetensors")
    name = draw(st.sampled_from(["w.safetensors", "w.pth", "w.ckpt", "w.bin"]))
    data = damaged_safetensors(draw, data) if name == "w.safetensors" else damaged_pth(draw, data)
    small = ["--recipe", "digits_demo", "model.width=4", "--out", "new/run"]
    return Input(f"weights: {name}", [["import", name, *small]], {name: data})


def damaged_pth(draw: Draw, data: bytes) -> bytes:
    """What torch.save has written, in either form, with damaged bytes or something else in it."""
    from safetensors.torch import load

    tree: Any = dict(load(data))
    how = draw(st.sampled_from(["bytes", "bytes", "tree", "junk"]))
    if how == "tree":
        keys = draw(st.lists(st.sampled_from(sorted(tree)), min_size=1, max_size=3))
        tree |= {key: draw(st.one_of(JUNK, TENSORS)) for key in keys}
    elif how == "junk":
        tree = draw(st.one_of(JUNK, TENSORS, st.builds(lambda x: {"state_dict": x}, JUNK)))
    stream = io.BytesIO()
    torch.save(tree, stream, _use_new_zipfile_serialization=draw(st.booleans()))
    return damaged(draw, stream.getvalue()) if how == "bytes" else stream.getvalue()


TENSORS = st.sampled_from(
    [
        torch.empty(1).as_strided((2**20, 2**20), (0, 0)),
        torch.eye(3).to_sparse(),
        torch.ones(2, dtype=torch.complex64),
        torch.ones(3, dtype=torch.bool),
        torch.full((8, 32), float("nan")),
        torch.zeros(0),
        torch.ones(2, device="meta"),
    ]
)


def data_files(draw: Draw, samples: Path) -> Input:
    """Images, Parquet, archives and lists to be prepared, looked at and predicted."""
    name, make = draw(st.sampled_from(sorted(DATA.items())))
    files = make(draw)
    source = next(iter(files)).split("/")[0]
    prepare = ["data", "prepare", source, "--out", "new", *["--skip-bad"] * draw(st.booleans())]
    commands = [prepare]
    if name in ("image", "parquet"):
        commands += [["data", draw(st.sampled_from(["inspect", "check"])), source]]
        commands += [["predict", PACKAGE, source, *NO_RUNS, "--html", "p.html"]]
    return Input(f"data: {name}", commands, files, PACKAGE)


def image_folder(draw: Draw) -> dict[str, Content]:
    """Two classes of pictures, of which some are damaged; names of classes and files may be drawn."""
    odd = draw(
        st.sampled_from(["a", "...", "<script>alert(1)<", "\x1b[31m", "a\nb", "-x", "\udcff", "[/red]"])
    )
    end = draw(st.sampled_from(["png", "jpg", "svg", "pdf", "eps", "tiff", "png.exe"]))
    broken = {f"src/{odd}/{i}.{end}": damaged_image(draw) for i in range(draw(st.integers(1, 3)))}
    return {f"src/b/{i}.png": picture("PNG", i) for i in range(2)} | broken


def parquet_set(draw: Draw) -> dict[str, Content]:
    """A prepared set: Parquet, and the names of its classes."""
    stream = io.BytesIO()
    images = [picture("PNG", i) for i in range(5)] + [damaged_image(draw)]
    pq.write_table(
        pa.table({"image": images, "label": [0, 1] * 3, "sample_id": range(6), "path": ["p"] * 6}), stream
    )
    names = json.dumps({"classes": ["a", "b"]})
    if draw(st.booleans()):
        return {"src/x.parquet": damaged_parquet(draw, stream.getvalue()), "src/classes.json": names.encode()}
    return {"src/x.parquet": stream.getvalue(), "src/classes.json": damaged_json(draw, names)}


def cifar(draw: Draw) -> dict[str, Content]:
    """A CIFAR archive, packed or not."""

    batch = {b"labels": [0, 1, 2], b"data": np.zeros((3, 3072), np.uint8), b"filenames": [b"a.png"] * 3}
    if draw(st.booleans()):
        batch[draw(st.sampled_from(sorted(batch)))] = draw(JUNK)
    parts = [
        pickle.dumps({b"label_names": [b"a", b"b", b"c"]}, 2),
        pickle.dumps(batch, draw(st.sampled_from([0, 2, 4]))),
    ]
    names = ["batches.meta", "data_batch_1"]
    packed = draw(st.booleans())
    if not packed or draw(st.booleans()):
        which = draw(st.integers(0, 1))
        parts[which] = damaged(draw, parts[which])
    if not packed:
        return {f"cifar-10-batches-py/{n}": p for n, p in zip(names, parts, strict=True)}
    return {"cifar-10-python.tar.gz": damaged(draw, tar(dict(zip(names, parts, strict=True))))}


def idx(draw: Draw) -> dict[str, Content]:
    """MNIST's files."""
    sizes = [draw(st.sampled_from([0, 3, 4, 40000, 2**32 - 1])) for _ in range(3)]
    sizes = draw(st.sampled_from([[3, 4, 4], sizes]))
    images, labels = (
        struct.pack(">IIII", 0x803, *sizes) + bytes(48),
        struct.pack(">II", 0x801, 3) + bytes([0, 1, 2]),
    )
    images = damaged(draw, images) if draw(st.booleans()) else images
    end, pack = draw(st.sampled_from([("", bytes), (".gz", gzip.compress)]))
    files = {
        f"src/train-images-idx3-ubyte{end}": pack(images),
        f"src/train-labels-idx1-ubyte{end}": pack(labels),
    }
    key = draw(st.sampled_from(sorted(files)))
    return files | ({key: damaged(draw, files[key])} if draw(st.booleans()) else {})


DATA = {"image": image_folder, "parquet": parquet_set, "cifar": cifar, "idx": idx}
