import dataclasses
import re
import textwrap

import pytest
import torch

from rtk.scores import (
    DEFAULT_SCORES,
    SCORES,
    FitData,
    Predictions,
    apply_score,
    compute_image_score,
    compute_score,
    expand_scores,
    fit_score,
    get_score,
)


def made_up(count, classes=3, dimensions=8, seed=0):
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(count, classes, generator=generator)
    features = torch.rand(count, dimensions, generator=generator)
    return Predictions(logits, features, torch.arange(count) % classes)


@pytest.fixture(scope="module")
def fit_data():
    return FitData(made_up(60), made_up(30, seed=1), torch.rand(3, 8), torch.zeros(3))


def test_the_nine_of_sure_plus_are_there():
    assert set(DEFAULT_SCORES) <= set(SCORES)
    assert len(DEFAULT_SCORES) == 9


def test_fit_once_score_many(fit_data):
    state = fit_score("knn", fit_data, k=5)
    for seed in (2, 3):
        images = made_up(10, seed=seed)
        assert torch.equal(apply_score("knn", state, images), compute_score("knn", images, fit_data, k=5))


def test_scoring_options_can_change_after_the_fit(fit_data):
    images = made_up(10, seed=2)
    changed = apply_score("knn", fit_score("knn", fit_data), images, k=5)
    assert torch.equal(changed, compute_score("knn", images, fit_data, k=5))


def test_fitting_options_cannot_change_after_the_fit(fit_data):
    state = fit_score("openmax", fit_data)
    with pytest.raises(ValueError, match="openmax: got hyper-parameter 'tail', wanted alpha"):
        apply_score("openmax", state, made_up(2), tail=5)


def test_logit_scores_need_no_fit_data():
    images = made_up(4)
    assert fit_score("msp").tensors == {}
    assert torch.equal(apply_score("msp", fit_score("msp"), images), compute_score("msp", images))


def test_hyperparameters_hold_defaults(fit_data):
    assert fit_score("openmax", fit_data, tail=5).hyperparameters == {"tail": 5, "alpha": 3}
    assert SCORES["ash"].defaults == {"variant": "s", "percentile": 90.0}


@pytest.mark.parametrize(
    ("name", "hyperparameters", "message"),
    [
        ("mps", {}, r"score: got 'mps', wanted one of .*\(nearest: msp\)"),
        ("knn", {"K": 5}, "knn: got hyper-parameter 'K', wanted k"),
        ("react", {"percentil": 5}, "wanted percentile; did you mean 'percentile'"),
        ("msp", {"temperature": 5}, "msp: got hyper-parameter 'temperature', wanted no hyper-parameter"),
        ("knn", {"k": 0}, "k: got 0, wanted a positive integer"),
        ("knn", {"k": 2.0}, "k: got 2.0, wanted a positive integer"),
        ("knn", {"k": True}, "k: got True, wanted a positive integer"),
        ("knn", {"k": 61}, "k: got 61, wanted at most 60, the training images kept"),
        ("energy", {"temperature": 0}, "temperature: got 0, wanted a number above 0"),
        ("energy", {"temperature": float("nan")}, "temperature: got nan, wanted a number above 0"),
        ("react", {"percentile": 100}, r"percentile: got 100, wanted a number in \[0, 100\)"),
        ("relu", {"lmbda": 1.5}, r"lmbda: got 1.5, wanted a number in \[0, 1\]"),
        ("nnguide", {"fraction": 0}, r"fraction: got 0, wanted a number in \(0, 1\]"),
        ("vim", {"dim": 8}, "dim: got 8, wanted less than the 8 dimensions"),
        ("ash", {"variant": "x"}, "variant: got 'x', wanted one of 's', 'b', 'p'"),
    ],
)
def test_bad_names_and_values_are_named(fit_data, name, hyperparameters, message):
    with pytest.raises(ValueError, match=message):
        compute_score(name, made_up(4), fit_data, **hyperparameters)


def test_missing_or_foreign_fit_data_is_named(fit_data):
    with pytest.raises(ValueError, match="fit_data: got None, wanted FitData, as knn is fitted"):
        compute_score("knn", made_up(4))
    with pytest.raises(
        ValueError, match=r"predictions: got \(classes, features\) = \(4, 8\), wanted \(3, 8\)"
    ):
        compute_score("mds", made_up(4, classes=4), fit_data)


def test_get_score_returns_the_row():
    assert get_score("vim").source.startswith("Wang et al.")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"logits": torch.zeros(4)}, r"logits: got shape \(4,\), wanted two dimensions"),
        ({"logits": torch.zeros(4, 1)}, r"logits: got shape \(4, 1\), wanted .* 2 column"),
        ({"logits": torch.zeros(0, 3)}, r"logits: got shape \(0, 3\), wanted .* at least one row"),
        ({"logits": torch.zeros(4, 3).half()}, "logits: got torch.float16, wanted torch.float32 or"),
        ({"features": torch.zeros(5, 8)}, "features: got 5 rows, wanted 4"),
        ({"labels": torch.zeros(4)}, r"labels: got torch.float32 of shape \(4,\), wanted torch.int64"),
        ({"labels": torch.zeros(3).long()}, r"labels: got torch.int64 of shape \(3,\), wanted .*\(4,\)"),
    ],
)
def test_bad_predictions_are_named(changes, message):
    with pytest.raises(ValueError, match=message):
        dataclasses.replace(made_up(4), **changes)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"validation": made_up(4, dimensions=9)}, r"validation: got .* = \(3, 9\), wanted \(3, 8\)"),
        ({"weight": torch.zeros(8, 3)}, r"weight: got shape \(8, 3\), wanted \(C, D\) = \(3, 8\)"),
        ({"bias": torch.zeros(8)}, r"bias: got shape \(8,\), wanted \(C,\) = \(3,\)"),
        (
            {"train": dataclasses.replace(made_up(4), labels=torch.tensor([0, 1, 2, 3]))},
            "train.labels: got values 0..3, wanted 0..2",
        ),
        (
            {"validation": dataclasses.replace(made_up(4), labels=torch.tensor([0, -1, 2, 2]))},
            "validation.labels: got values -1..2, wanted 0..2",
        ),
    ],
)
def test_bad_fit_data_is_named(fit_data, changes, message):
    with pytest.raises(ValueError, match=message):
        dataclasses.replace(fit_data, **changes)


def test_split_covers_every_image_once():
    parts = list(made_up(10).split(4))
    assert [len(part) for part in parts] == [4, 4, 2]
    assert torch.equal(torch.cat([part.logits for part in parts]), made_up(10).logits)


def test_all_is_every_score_once():
    every = [name for name, score in SCORES.items() if not score.of_ensembles]
    assert expand_scores(["knn", "all", "msp"]) == ("knn", *(name for name in every if name != "knn"))
    with pytest.raises(ValueError, match="got 'mps'"):
        expand_scores(["all", "mps"])


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("knn", {}, "got 'knn', which scores predictions, wanted one of images"),
        ("gram", {}, "tensors: got None, wanted what gram was fitted to"),
        ("rr_bs", {"solver": "deepfool"}, "solver: got 'deepfool', wanted one of 'fgsm', 'pgd'"),
    ],
)
def test_bad_use_of_image_scores_is_named(name, options, message):
    with pytest.raises(ValueError, match=message):
        compute_image_score(name, torch.nn.Flatten(), torch.rand(2, 3, 4, 4), **options)


def test_image_scores_come_with_the_predictions():
    images = made_up(10)
    values = torch.arange(10.0)
    scored = Predictions(images.logits, images.features, images.labels, {"rr_bs": values})
    assert torch.equal(apply_score("rr_bs", fit_score("rr_bs"), scored), values)
    assert [len(part.image_scores["rr_bs"]) for part in scored.split(4)] == [4, 4, 2]
    with pytest.raises(ValueError, match="image_scores: got rr_bs, wanted 'gram'"):
        apply_score("gram", fit_score("gram"), scored)
    with pytest.raises(ValueError, match="rr_bs: got hyper-parameter 'dim', wanted solver, steps"):
        fit_score("rr_bs", dim=3)
    with pytest.raises(ValueError, match=r'image_scores: got rr_bs, wanted \'rr_bs{"solver": "pgd"}\''):
        apply_score("rr_bs", fit_score("rr_bs", solver="pgd"), scored)
    assert torch.equal(apply_score("rr_bs", fit_score("rr_bs", temperature=1), scored), values)


def test_predictions_may_do_without_labels_but_nothing_is_fitted_on_them():
    images = made_up(5)
    unlabelled = Predictions(images.logits, images.features)
    assert len(unlabelled) == 5
    assert [len(part) for part in unlabelled.split(2)] == [2, 2, 1]
    with pytest.raises(ValueError, match="^labels: got None"):
        unlabelled.known_labels  # noqa: B018
    for which in ("train", "validation"):
        parts = {"train": made_up(60), "validation": made_up(30), which: unlabelled}
        with pytest.raises(ValueError, match=f"^{which}.labels: got None"):
            FitData(**parts, weight=torch.rand(3, 8), bias=torch.zeros(3))


def test_the_docstring_s_example_runs():
    (block,) = re.findall(r"```python\n(.*?)```", Predictions.__doc__, re.DOTALL)
    names = {}
    exec(textwrap.dedent(block), names)
    torch.testing.assert_close(names["confidence"], names["logits"].softmax(1).amax(1))
