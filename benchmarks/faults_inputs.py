"""Eight kinds of input: a whole small instance, damaged in drawn ways, and the commands that read it."""

from __future__ import annotations

import functools
import gzip
import importlib
import io
import json
import os
import pickle
import shutil
import struct
import tarfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import torch
import yaml
from faults_damage_bytes import (
    JUNK,
    TEXTS,
    Draw,
    damaged,
    damaged_image,
    damaged_json,
    damaged_safetensors,
    damaged_tree,
    picture,
)
from hypothesis import strategies as st

from rtk.config.load import shipped_recipes, valid_keys

Content = bytes | Callable[[Path], Any]  # of a file; what is no plain file makes itself
RUN = "runs/sample"
PACKAGE = f"{RUN}/export"
NO_RUNS = ("--output", "none")


@dataclass(frozen=True)
class Input:
    """An input: what of the whole samples it starts from, its files, and the commands that read it."""

    label: str
    commands: list[list[str]]
    files: Mapping[str, Content] = field(default_factory=dict)
    base: str = ""

    def write(self, samples: Path, folder: Path) -> None:
        """Write it to a folder."""
        if self.base:
            shutil.copytree(samples / self.base, folder / self.base)
        for name, content in self.files.items():
            path = folder / name
            path.parent.mkdir(parents=True, exist_ok=True)
            if path.is_file():
                path.unlink()
            content(path) if callable(content) else path.write_bytes(content)


def call(words: list[str]) -> int:
    """Call a function `rtk.module:name` with paths: what reads files for a command that needs Ray."""
    module, _, name = words[0].partition(":")
    getattr(importlib.import_module(module), name)(*map(Path, words[1:]))
    return 0


def cases(kind: Callable[[Draw, Path], Input], samples: Path) -> st.SearchStrategy[Input]:
    """Inputs of a kind."""
    return st.composite(lambda draw: kind(draw, samples))()


@functools.cache
def sample(path: Path) -> bytes:
    """Bytes of a file of the samples."""
    return path.read_bytes()


def damaged_yaml(draw: Draw, text: str) -> bytes:
    """YAML whose tree or bytes are damaged, or with what other readers run or expand."""
    how = draw(st.sampled_from(["tree", "tree", "bytes", "tag", "anchor"]))
    if how == "bytes":
        return damaged(draw, text.encode())
    if how == "tree":
        tree = damaged_tree(draw, yaml.safe_load(text))
        return yaml.safe_dump(tree, allow_unicode=True).encode("utf-8", "replace")
    lines = text.splitlines()
    at = draw(st.integers(0, len(lines)))
    tags = (
        "python/object/apply:os.system [touch x]",
        "python/name:os.system",
        "binary x",
        "timestamp 1",
        "set {a}",
    )
    more = f"x: !!{draw(st.sampled_from(tags))}" if how == "tag" else bomb(draw(st.sampled_from([2, 8, 40])))
    return "\n".join([*lines[:at], more, *lines[at:]]).encode()


def bomb(depth: int) -> str:
    """Anchors that stand for 9^depth words."""
    lines = ["a0: &a0 [x, x]"]
    return "\n".join(lines + [f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 9)}]" for i in range(1, depth)])


def recipes(draw: Draw, samples: Path) -> Input:
    """A recipe."""
    text = shipped_recipes()[draw(st.sampled_from(sorted(shipped_recipes())))].read_text("utf-8")
    files = {"r.yaml": damaged_yaml(draw, text)}
    command = draw(st.sampled_from([["recipes", "validate"], ["train"], ["plan"]]))
    return Input("recipe", [[*command, "r.yaml", *["--print-config"] * (command == ["train"])]], files)


def overrides(draw: Draw, samples: Path) -> Input:
    """Values on the command line."""
    words = []
    for _ in range(draw(st.integers(1, 3))):
        key = draw(st.one_of(st.sampled_from(sorted(valid_keys())), st.text(max_size=8)))
        value = draw(JUNK)
        how = draw(st.integers(0, 2))
        text = str(value) if how == 0 else json.dumps(value) if how == 1 else draw(st.sampled_from(TEXTS))
        words.append(f"{key}={text}".replace("\x00", "").encode("utf-8", "replace").decode())
    words = [word for word in words if not word.startswith(("-", "output="))] or ["seed=x"]
    command = draw(st.sampled_from([["recipes", "validate"], ["train"], ["plan"]]))
    tail = ["--print-config"] if command == ["train"] else []
    return Input("overrides", [[*command, "digits_demo", *words, *tail]])


def checkpoints(draw: Draw, samples: Path) -> Input:
    """A checkpoint one of whose files is damaged, half of the time with a manifest that says it is whole."""
    folder = samples / RUN / "checkpoints"
    last = max(path for path in folder.iterdir() if path.is_dir())
    path = draw(st.sampled_from([*sorted(last.iterdir()), folder / "best.json", folder / "last.json"]))
    data = sample(path)
    data = damaged_json(draw, data.decode()) if path.suffix == ".json" else damaged_safetensors(draw, data)
    files: dict[str, Content] = {str(path.relative_to(samples)): data}
    if path.parent == last and draw(st.booleans()):
        files |= resealed(samples, last, path.name, data)
    readers = [["checkpoints", RUN, "--verify"], ["export", RUN, "--no-mlflow", "--checkpoint", "last"]]
    reading = [draw(st.sampled_from(readers))]
    return Input(f"checkpoint: {path.name}", reading, files, RUN)


def resealed(samples: Path, last: Path, name: str, data: bytes) -> dict[str, Content]:
    """Manifest and pointers to which a changed file is the right one."""
    import hashlib

    manifest = json.loads(sample(last / "manifest.json"))
    if name in manifest["files"]:
        known = manifest["files"][name]
        manifest["files"][name] = known | {"sha256": hashlib.sha256(data).hexdigest(), "bytes": len(data)}
        data = json.dumps(manifest).encode()
    pointer = {"checkpoint": last.name, "manifest": hashlib.sha256(data).hexdigest()}
    above = last.parent.relative_to(samples)
    files: dict[str, Content] = {f"{above}/last.json": json.dumps(pointer).encode()}
    return files | ({f"{above}/{last.name}/manifest.json": data} if name in manifest["files"] else {})


def packages(draw: Draw, samples: Path) -> Input:
    """A packaged model one of whose files is damaged."""
    name = draw(st.sampled_from(["model.json", "model.json", "weights.safetensors", "scores.safetensors"]))
    data = sample(samples / PACKAGE / name)
    data = damaged_json(draw, data.decode()) if name == "model.json" else damaged_safetensors(draw, data)
    files = {f"{PACKAGE}/{name}": data, "a.png": picture("PNG")}
    return Input(f"package: {name}", [["predict", PACKAGE, "a.png", *NO_RUNS]], files, PACKAGE)


def predictions(draw: Draw, samples: Path) -> Input:
    """Predictions, scores or the decision of a run."""
    folder = samples / RUN / "evaluation"
    names = (
        "predictions/test.parquet",
        "scores.parquet",
        "decision.json",
        "decision.safetensors",
        "metrics.json",
    )
    path = folder / draw(st.sampled_from(names))
    data = sample(path)
    if path.suffix == ".parquet":
        data = damaged_parquet(draw, data)
    else:
        damage = damaged_json if path.suffix == ".json" else damaged_safetensors
        data = damage(draw, data.decode() if path.suffix == ".json" else data)
    inside = f"{RUN}/evaluation/{path.relative_to(folder)}"
    readers = {
        "test.parquet": [
            ["rtk.evaluate.predictions_file:read_predictions", inside],
            ["rtk.evaluate.predictions_file:read_stamp", inside],
        ]
    }
    readers_of_all = [["leaderboard", RUN], ["compare", RUN], ["export", RUN, "--no-mlflow"]]
    default = [draw(st.sampled_from(readers_of_all))]
    slow = [["report", RUN]] if draw(st.integers(0, 39)) == 7 else []
    return Input(f"evaluation: {path.name}", [*readers.get(path.name, default), *slow], {inside: data}, RUN)


def damaged_parquet(draw: Draw, data: bytes) -> bytes:
    """Parquet with damaged bytes or metadata, or a column of another type."""
    how = draw(st.sampled_from(["bytes", "column", "column", "drop", "metadata", "rows"]))
    if how == "bytes":
        return damaged(draw, data)
    table = pq.read_table(io.BytesIO(data))
    name = draw(st.sampled_from(table.column_names))
    at = table.column_names.index(name)
    if how == "column":
        values = [draw(JUNK)] * len(table)
        try:
            column = pa.array(values)
        except (pa.ArrowException, OverflowError, ValueError):
            column = pa.nulls(len(table))
        table = table.set_column(at, name, column)
    elif how == "drop":
        table = table.drop_columns([name])
    elif how == "rows":
        table = table.slice(0, draw(st.integers(0, 3)))
    else:
        keys = list(table.schema.metadata or {b"rtk": b""})
        text = json.dumps(draw(JUNK)) if draw(st.booleans()) else draw(st.text(max_size=9))
        table = table.replace_schema_metadata({draw(st.sampled_from(keys)): text.encode("utf-8", "replace")})
    stream = io.BytesIO()
    try:
        pq.write_table(table, stream)
    except pa.ArrowException:  # such as an empty struct, which Parquet does not know
        return damaged(draw, data)
    return stream.getvalue()


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
    import numpy as np

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


def tar(members: Mapping[str, bytes]) -> bytes:
    """A compressed archive."""
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w:gz") as archive:
        for name, data in members.items():
            info = tarfile.TarInfo(f"cifar-10-batches-py/{name}")
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    return stream.getvalue()


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


def run_folders(draw: Draw, samples: Path) -> Input:
    """A run one of whose small files is damaged."""
    names = (
        "metrics.csv",
        "config.yaml",
        "data.json",
        "environment.json",
        "status.json",
        "vitals.json",
        "best.json",
    )
    names += (
        "progress.json",
        "mlflow.json",
        "evaluation/metrics.json",
        "ranks/00000.json",
        "evaluation/table.json",
    )
    there = [name for name in names if (samples / RUN / name).exists()]
    name = draw(st.sampled_from(there))
    data = sample(samples / RUN / name)
    if name == "metrics.csv":
        data = damaged_rows(draw, data)
    else:
        data = (damaged_yaml if name.endswith("yaml") else damaged_json)(draw, data.decode())
    readers = [["status", RUN], ["runs", "show", RUN], ["runs", "ls"], ["compare", RUN], ["checkpoints", RUN]]
    commands = draw(st.lists(st.sampled_from(readers), min_size=1, max_size=2, unique_by=str))
    commands += [["compare", RUN, "--html", "c.html"]] if draw(st.integers(0, 29)) == 7 else []
    commands += [["report", RUN]] if draw(st.integers(0, 59)) == 7 else []
    return Input(f"run: {name}", commands, {f"{RUN}/{name}": data}, RUN)


def damaged_rows(draw: Draw, data: bytes) -> bytes:
    """metrics.csv with damaged bytes or odd cells."""
    if draw(st.booleans()):
        return damaged(draw, data)
    rows = data.decode().splitlines()
    cells = rows[draw(st.integers(0, len(rows) - 1))].split(",")
    cells[draw(st.integers(0, len(cells) - 1))] = str(draw(JUNK))
    return "\n".join([*rows, ",".join(cells), ""]).encode("utf-8", "replace")


def spaces(draw: Draw, samples: Path) -> Input:
    """A search space or a suite."""
    if draw(st.booleans()):
        path = Path(__file__).parents[1] / "search_spaces" / "small.yaml"
        files = {"s.yaml": damaged_yaml(draw, path.read_text("utf-8"))}
        return Input("search space", [["sweep", "s.yaml", "digits_demo", "--check"]], files)
    text = "near: {a: 'builtin:digits/near_digits89.parquet', b: b}\nfar: {x: x}\ntest: t.parquet\n"
    files = {"s.yaml": damaged_yaml(draw, text)}
    return Input("suite", [["leaderboard", RUN, "--suite", "./s.yaml"]], files, RUN)


KINDS: dict[str, Callable[[Draw, Path], Input]] = {
    "recipes": recipes,
    "overrides": overrides,
    "checkpoints": checkpoints,
    "packaged models and weights": lambda draw, samples: (packages if draw(st.booleans()) else weights)(
        draw, samples
    ),
    "predictions and decisions": predictions,
    "images and data sets": data_files,
    "run folders": run_folders,
    "search spaces and suites": spaces,
}
assert os.name == "posix"  # links, fifos
