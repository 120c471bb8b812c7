"""Tuning of scores: the best of the grid by the stated criterion, on the stated images."""

from __future__ import annotations

from dataclasses import replace
from functools import partial

import numpy as np
import pytest
import torch

from rtk.config import load_config
from rtk.config.errors import ConfigError
from rtk.config.load import dump_config
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
from rtk.scores.selection import image_columns, image_scores, wanted_scores
from rtk.scores.variants import fit_of, searched_columns

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
    bias = torch.zeros(CLASSES)
    halves = tuple((2 * weight, bias) for weight in HEAD.split(WIDTH // 2, dim=1))  # of an ensemble
    return FitData(predictions(0, 300), predictions(1, 120), HEAD, bias, halves)


def test_named_sets_of_scores():
    assert expand_scores(["sure_plus", "msp"]) == DEFAULT_SCORES
    assert expand_scores(["all", "disagreement"]) == tuple(SCORES)
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


def test_hyperparameters_can_be_given(fit):
    """They are fitted and recorded, beside the scores compared anyway; a search leaves them alone."""
    given = ["evaluate.scores.knn.k=20", "evaluate.scores.gen.m=3", "evaluate.scores.she.metric=cosine"]
    config = load_config("digits_ce", given)
    assert wanted_scores(config.evaluate) == (*CONFIG.evaluate.scores, "gen", "she")
    tuned = fixed_scores(config, ["knn", "gen", "she", "nnguide"], fit)
    found = tuned.describe()["hyperparameters"]
    assert (found["knn"], found["gen"], found["she"]) == (
        {"k": 20},
        {"gamma": 0.1, "m": 3},
        {"metric": "cosine"},
    )
    assert found["nnguide"]["k"] == 100
    criterion = error_criterion(fit.validation)
    tried = tuned_scores(config, ["knn", "gen"], fit, criterion, openood_grid).tried
    assert [row["k"] for row in tried["knn"]] == [20]
    assert {row["m"] for row in tried["gen"]} == {3}
    assert len(tried["gen"]) == len(SCORES["gen"].search["gamma"])


def test_given_hyperparameters_are_part_of_the_column_of_a_score_of_images():
    """Those of its fit too: they decide which tensors it reads."""
    given = [
        "evaluate.scores.adascale_a.k1=10",
        "evaluate.scores.odin.epsilon=0.001",
        "evaluate.scores.gram={}",
    ]
    settings = load_config("digits_ce", given).evaluate
    columns = image_columns(settings)
    assert columns == ('adascale_a{"k1": 10}', 'odin{"epsilon": 0.001}', "gram")
    assert fit_of(columns[0]) == (columns[0], {"k1": 10})
    assert fit_of('adascale_a{"percentile_low": 60}') == ("adascale_a", {})
    searched = ["evaluate.protocol=rat_splits", "evaluate.search_images=true", "evaluate.scores=[rr_fast]"]
    settings = load_config("digits_ce", [*searched, "evaluate.scores.rr_fast.temperature=2"]).evaluate
    assert image_columns(settings) == ('rr_fast{"temperature": 2}',)


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("evaluate.scores.knn.k=0", r"^evaluate.scores.knn.k: got 0, wanted a positive integer$"),
        ("evaluate.scores.knn.q=1", r"^evaluate.scores.knn: got hyper-parameter 'q', wanted k$"),
        ("evaluate.scores.kn.k=1", r"^evaluate.scores: got hyper-parameters of 'kn', wanted .*nearest: knn"),
        ("evaluate.scores.all.k=1", r"^evaluate.scores: got hyper-parameters of 'all', wanted those of one"),
    ],
)
def test_hyperparameters_that_do_not_fit_are_refused_by_their_key(override, message):
    with pytest.raises(ConfigError, match=message):
        wanted_scores(load_config("digits_ce", [override]).evaluate)


def test_a_recipe_gives_hyperparameters_too(tmp_path):
    """And what a run keeps reads the same again."""
    recipe = tmp_path / "mine.yaml"
    recipe.write_text("base: digits_ce\nevaluate: {scores: {knn: {k: 7}, vim: {}}}\n")
    config = load_config(recipe)
    assert wanted_scores(config.evaluate) == (*CONFIG.evaluate.scores, "vim")
    recipe.write_text(dump_config(config))
    assert load_config(recipe).evaluate.scores == config.evaluate.scores
    assert config.evaluate.scores["knn"] == {"k": 7}


@pytest.mark.parametrize(
    "name", ["resnet18", "wrn28_10", "timm/seresnext50_32x4d", "timm/efficientnet_lite0"]
)
def test_shaped_activations_are_recommended_behind_batchnorm_and_relu(name):
    assert {"ash", "scale", "react"} <= set(expand_scores(["recommended"], name))


@pytest.mark.parametrize(
    "name", ["dinov3_s16", "timm/vit_base_patch16_224", "timm/resnetv2_50", "timm/convnext_tiny"]
)
def test_they_are_not_for_other_networks(name):
    recommended = set(expand_scores(["recommended"], name))
    assert {"ash", "scale", "react", "dice", "adascale_a"}.isdisjoint(recommended)
    assert {"msp", "knn", "rmds", "mds_pp"} <= recommended


def test_splits_are_disjoint_of_the_stated_size_and_differ():
    splits = draw_splits(seed=3, rows=1001)
    assert len(splits) == 3
    for tune, rest in splits:
        assert len(tune) == 200
        assert sorted([*tune, *rest]) == list(range(1001))
    assert not np.array_equal(splits[0][0], splits[1][0])
    assert all(np.array_equal(a[0], b[0]) for a, b in zip(splits, draw_splits(3, 1001), strict=True))
