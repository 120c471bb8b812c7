"""The study on photographs: its configs and searches fit rtk, and its page says what the rows hold."""

import argparse
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))

import study_page
from study_plan import METHODS, PARTS, SEEDS, run_config, space_of

from rtk.config.load import flatten, override_config

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
