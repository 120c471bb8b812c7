"""The study on photographs: its configs and searches fit rtk, and its page says what the rows hold."""

import argparse
import json
import multiprocessing
import sys
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from multiprocessing.synchronize import Barrier
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))

import study_page
from study_plan import METHODS, PARTS, SEEDS, Part, prepare_part, run_config, space_of

from rtk.config.load import flatten, override_config
from rtk.data.sets.dataset import open_dataset
from tests.data.conftest import encode, random_pixels

OPTIONS = argparse.Namespace(
    output="study", weights="lite0.safetensors", data="data", workers=1, threads=1, quick=False
)


@pytest.mark.parametrize("part", PARTS)
@pytest.mark.parametrize("method", METHODS)
def test_every_run_has_a_config_and_its_search_varies_what_has_an_effect(part, method, monkeypatch):
    monkeypatch.setenv("RTK_DATA", "data")
    space = space_of(PARTS[part], METHODS[method])
    assert len(space.space) == 2
    start = run_config(part, method, 0, Path("sets"), OPTIONS)
    values = {key: one.loguniform or one.uniform for key, one in space.space.items()}
    least, most = ({key: ends[place] for key, ends in values.items()} for place in (0, 1))
    assert override_config(start, least) != override_config(start, most)
    run = run_config(part, method, 3, Path("sets"), OPTIONS, most)
    tree = dict(flatten(run.model_dump(mode="json")))
    assert {key: tree[key] for key in most} == most
    assert (run.seed, run.data.validation_seed, run.data.validation_ood) == (3, 0, None)
    assert set(run.data.far_ood) == set(PARTS[part].far)


def get_ready(together: Barrier) -> None:
    """Import all that takes a process its time, and wait for the other."""
    import study  # noqa: F401

    together.wait()


def in_two_processes(function: Callable[..., Any], *arguments: Sequence[Any]) -> list[Any]:
    """What a function gives in each of two processes, which begin it at the same moment."""
    context = multiprocessing.get_context("forkserver")
    together = context.Barrier(2, timeout=120)
    with ProcessPoolExecutor(2, context, get_ready, (together,)) as pool:
        return list(pool.map(function, *arguments))


def looked_at(folder: Path) -> dict[str, tuple[int, int]]:
    """When each set of a folder was written, and how many images it has."""
    files = sorted(folder.rglob("*.parquet"))
    found = {file.relative_to(folder).as_posix(): file.stat().st_mtime_ns for file in files}
    return {name: (time, open_dataset(folder / name).rows) for name, time in found.items()}


def cut_and_look(part: Part, data: Path, folder: Path) -> dict[str, tuple[int, int]]:
    return looked_at(prepare_part(part, data, folder))


SMALL = replace(
    PARTS["lite0-flowers"],
    held_out=["c"],
    images=40,
    sources={"train": "photos/train", "test": "photos/test"},
    far={"noise": "noise/train"},
)


@pytest.fixture
def data(tmp_path) -> Path:
    """Prepared sets of 90 and 45 small photographs of three classes, and of 30 of noise."""
    for seed, (name, rows) in enumerate([("photos/train", 90), ("photos/test", 45), ("noise/train", 30)]):
        file = tmp_path / "data" / f"{name}.parquet"
        file.parent.mkdir(parents=True, exist_ok=True)
        images = [encode(random_pixels(1000 * seed + row)) for row in range(rows)]
        columns = {"image": images, "label": [row % 3 for row in range(rows)], "sample_id": range(rows)}
        pq.write_table(pa.table({key: list(values) for key, values in columns.items()}), file)
        (file.parent / "classes.json").write_text(json.dumps({"classes": ["a", "b", "c"]}))
    return tmp_path / "data"


@pytest.mark.slow
@pytest.mark.parametrize("sources", [SMALL.sources, {"train": "photos/train"}], ids=["tested", "cut in two"])
def test_of_two_processes_one_cuts_and_the_other_waits_for_it(data, tmp_path, sources):
    part, folder = replace(SMALL, sources=sources), tmp_path / "study" / "data" / "part"
    one, other = in_two_processes(cut_and_look, [part] * 2, [data] * 2, [folder] * 2)
    assert one == other == looked_at(folder)
    names = ["near/near", "near_train/near_train", "noise/noise", "test", "train"]
    assert list(one) == [f"{name}.parquet" for name in names]
    if "test" in sources:
        assert [rows for _, rows in one.values()] == [15, 30, 30, 30, 40]


def test_a_cut_that_was_interrupted_is_made_anew(data, tmp_path):
    folder = tmp_path / "part"
    folder.mkdir()
    (folder / "train.parquet").write_bytes(b"PAR1")
    first = cut_and_look(SMALL, data, folder)
    assert first["train.parquet"][1] == 40
    assert cut_and_look(SMALL, data, folder) == first


def append_rows(folder: Path, method: str) -> list[int]:
    """Append 50 long rows of a method to a study; how many of these are read after each."""
    from study import Study

    study = Study(argparse.Namespace(output=str(folder)))
    summary, counts = {str(number): number / 7 for number in range(700)}, []
    for seed in range(50):
        study.append({"part": "", "method": method, "seed": seed, "summary": summary, "seconds": 0.0})
        counts.append(sum(row["method"] == method for row in study.rows()))
    return counts


@pytest.mark.slow
def test_rows_of_two_processes_are_whole_whenever_they_are_read(tmp_path):
    assert in_two_processes(append_rows, [tmp_path] * 2, ["CE", "RAT"]) == [list(range(1, 51))] * 2
    found = [json.loads(line) for line in (tmp_path / "rows.jsonl").read_text("utf-8").splitlines()]
    assert sorted((row["method"], row["seed"]) for row in found) == [
        (method, seed) for method in ("CE", "RAT") for seed in range(50)
    ]
    assert {len(row["summary"]) for row in found} == {700}


def rows(method, accuracies, part="lite0-flowers"):
    """A row for each seed, DS-AURC falling as accuracy rises."""
    return [
        {
            "part": part,
            "method": method,
            "seed": seed,
            "machine": "2 cores of a processor",
            "summary": {"accuracy": accuracy, "aurc": 1 - accuracy},
            "scores": {"msp": {"ds_aurc_near": 0.3}, "knn": {"ds_aurc_near": 1 - accuracy}},
            "values": {"optimizer.lr": 0.01},
            "seconds": 150.0,
            "training_seconds": 40.0 if method == "CE" else 120.0,
        }
        for seed, accuracy in enumerate(accuracies)
    ]


def test_the_page_shows_means_intervals_losses_and_costs(tmp_path):
    better, worse = [0.75, 0.76, 0.74], [0.65, 0.64, 0.66]
    found = [*rows("CE", [0.70, 0.71, 0.69]), *rows("SURE+", better), *rows("RAT", worse)]
    tuned = {"lite0-flowers-sure_plus": {"values": {"optimizer.lr": 0.01}, "seconds": 90.0}}
    page = study_page.write_study_page(found, tuned, tmp_path / "study.md")
    text = page.read_text(encoding="utf-8")
    assert f"9 of {len(PARTS) * len(METHODS) * SEEDS} runs" in text
    assert "on 2 cores of a processor." in text
    assert "| SURE+ | 3 | 75.0 ± 1.0 | 250.0 ± 10.0 |" in text
    assert "**+5.0 [+5.0, +5.0]**" in text
    assert "Better: SURE+ in accuracy, SURE+ in AURC. Worse: RAT in accuracy, RAT in AURC." in text
    assert "| SURE+ | 120 | 150 | 3.0 | 90 | lr 0.01 |" in text
    assert PARTS["lite0-flowers"].cut in text
    assert "<svg" in (tmp_path / "images/study_lite0-flowers.svg").read_text(encoding="utf-8")


def test_one_seed_has_no_interval():
    runs = study_page.of_part([*rows("CE", [0.7]), *rows("RAT", [0.8])], "lite0-flowers")
    assert study_page.difference(runs, "RAT", "accuracy") is None
    assert study_page.verdict(runs).endswith("Better: nothing. Worse: nothing.")
    assert study_page.spread([0.7]) == "0.7"
