"""Eight kinds of input: a whole small instance, damaged in drawn ways, and the commands that read it."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from pathlib import Path

from faults_damage_bytes import (
    JUNK,
    TEXTS,
    Draw,
    damaged,
    damaged_json,
    damaged_safetensors,
    picture,
)
from faults_given import (
    NO_RUNS,
    PACKAGE,
    RUN,
    Content,
    Input,
    damaged_parquet,
    damaged_yaml,
    sample,
)
from faults_inputs_data import data_files, weights
from hypothesis import strategies as st

from rtk.config.load import shipped_recipes, valid_keys


def cases(kind: Callable[[Draw, Path], Input], samples: Path) -> st.SearchStrategy[Input]:
    """Inputs of a kind."""
    return st.composite(lambda draw: kind(draw, samples))()


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
