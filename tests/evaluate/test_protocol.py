"""Tuning of scores: the best of the grid by the stated criterion, on the stated images."""

from __future__ import annotations

from dataclasses import replace
from functools import partial

import numpy as np
import pytest
import torch

from rtk.config import load_config
from rtk.evaluate.protocol import (
    draw_splits,
    error_criterion,
    fixed_scores,
    ood_criterion,
    openood_grid,
    rat_grid,
    tuned_scores,
)
from rtk.metrics import aurc, auroc
from rtk.scores import (
    DEFAULT_SCORES,
    SCORES,
    FitData,
    Predictions,
    apply_score,
    compute_score,
    expand_scores,
)
from rtk.scores.selection import image_scores
from rtk.scores.variants import searched_columns

CONFIG = load_config("digits_ce")
CLASSES, WIDTH = 5, 12
HEAD = torch.randn(CLASSES, WIDTH, generator=torch.Generator().manual_seed(9))


def predictions(seed: int, rows: int, shift: float = 0.0) -> Predictions:
    generator = torch.Generator().manual_seed(seed)
    labels = torch.randint(0, CLASSES, (rows,), generator=generator)
    features = (HEAD[labels] * 0.5 + torch.randn(rows, WIDTH, generator=generator) + shift).relu()
    of_images = {name: torch.rand(rows, generator=generator) for name in image_scores(SCORES)}
    return Predictions(features @ HEAD.T, features, labels, of_images)


@pytest.fixture(scope="module")
def fit() -> FitData:
    return FitData(predictions(0, 300), predictions(1, 120), HEAD, torch.zeros(CLASSES))


def test_named_sets_of_scores():
    assert expand_scores(["sure_plus", "msp"]) == DEFAULT_SCORES
    assert expand_scores(["all"]) == tuple(SCORES)
    with pytest.raises(ValueError, match="msp"):
        expand_scores(["mps"])


def test_grid_is_every_combination():
    search = SCORES["gen"].search
    assert len(openood_grid("gen")) == len(search["gamma"]) * len(search["m"])
    assert openood_grid("msp") == []


def test_rat_tunes_temperatures_over_its_own_values():
    for name in ("relu", "doctor_alpha", "odin_temperature"):
        assert [values["temperature"] for values in rat_grid(name, images=False)][::14] == [0.2, 1000]
    assert rat_grid("knn", images=False) == openood_grid("knn")
    assert rat_grid("msp", images=True) == rat_grid("odin", images=False) == []
    assert len(rat_grid("odin", images=True)) == 15 * 12


def test_a_score_of_images_is_tuned_by_its_columns(fit):
    validation = fit.validation
    correct = (validation.logits.argmax(1) == validation.labels).float()
    columns = {name: torch.rand(len(validation)) for name in searched_columns("rr_fast")}
    best = 'rr_fast{"temperature": 2.5}'
    given = replace(validation, image_scores=validation.image_scores | columns | {best: correct})
    grid = partial(rat_grid, images=True)
    tuned = tuned_scores(CONFIG, ["rr_fast"], replace(fit, validation=given), error_criterion(given), grid)
    assert tuned.states["rr_fast"].hyperparameters["temperature"] == 2.5
    assert len(tuned.tried["rr_fast"]) == 15
    assert torch.equal(apply_score("rr_fast", tuned.states["rr_fast"], given), correct)


@pytest.mark.parametrize("name", ["energy", "react", "dice", "scale"])
def test_automatic_search_takes_the_largest_validation_auroc(fit, name):
    unseen = predictions(2, 100, shift=1.0)
    tuned = tuned_scores(CONFIG, [name], fit, ood_criterion(fit.validation, unseen), openood_grid)
    is_known = np.repeat([True, False], [120, 100])
    reached = {}
    for values in openood_grid(name):
        scores = [compute_score(name, part, fit, **values) for part in (fit.validation, unseen)]
        reached[tuple(values.items())] = auroc(torch.cat(scores).numpy(), is_known)
    chosen = tuned.states[name].hyperparameters
    best = max(reached, key=lambda values: reached[values])
    assert all(chosen[key] == value for key, value in best)
    assert [row["criterion"] for row in tuned.tried[name]] == pytest.approx(list(reached.values()))
    assert len(set(reached.values())) > 1  # the grid matters here


def test_error_criterion_is_minus_the_aurc(fit):
    correct = (fit.validation.logits.argmax(1) == fit.validation.labels).numpy()
    tuned = tuned_scores(CONFIG, ["odin_temperature"], fit, error_criterion(fit.validation), openood_grid)
    scores = compute_score("odin_temperature", fit.validation, fit, temperature=1).numpy()
    assert tuned.tried["odin_temperature"][0]["criterion"] == pytest.approx(-aurc(scores, correct))


def test_neighbours_never_exceed_the_training_images(fit):
    small = FitData(predictions(0, 60), fit.validation, fit.weight, fit.bias)
    criterion = error_criterion(fit.validation)
    assert [
        row["k"] for row in tuned_scores(CONFIG, ["knn"], small, criterion, openood_grid).tried["knn"]
    ] == [50]
    tiny = FitData(predictions(0, 20), fit.validation, fit.weight, fit.bias)
    tuned = tuned_scores(CONFIG, ["knn", "nnguide"], tiny, criterion, openood_grid)
    assert tuned.states["knn"].hyperparameters["k"] == CONFIG.evaluate.knn_k == 10
    assert tuned.states["nnguide"].hyperparameters["k"] == 20


@pytest.mark.parametrize("name", SCORES)
def test_every_score_can_be_fixed_and_tuned(fit, name):
    fixed = fixed_scores(CONFIG, [name], fit)
    assert fixed.tried == {}
    grid = partial(rat_grid, images=False)
    tuned = tuned_scores(CONFIG, [name], fit, error_criterion(fit.validation), grid)
    # 12 features hold no space of 256 dimensions, the smallest that is tried for ViM.
    assert (name in tuned.tried) == (bool(grid(name)) and name != "vim")
    assert set(tuned.states) == {name}


def test_splits_are_disjoint_of_the_stated_size_and_differ():
    splits = draw_splits(seed=3, rows=1001)
    assert len(splits) == 3
    for tune, rest in splits:
        assert len(tune) == 200
        assert sorted([*tune, *rest]) == list(range(1001))
    assert not np.array_equal(splits[0][0], splits[1][0])
    assert all(np.array_equal(a[0], b[0]) for a, b in zip(splits, draw_splits(3, 1001), strict=True))
