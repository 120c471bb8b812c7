"""Counts made in parts give what the images give together."""

from pathlib import Path

import numpy as np
import pytest

from rtk.metrics import GridCounts, ScoreRange, ds_aurc, ds_f1, ood_aurc, ood_f1

GOLDEN = np.load(Path(__file__).parents[1] / "golden" / "ds_metrics.npz")


@pytest.fixture(params=["big__", "small_ties__"])
def five(request):
    """The five inputs of a joint metric."""
    case = request.param
    correct = GOLDEN[f"{case}id_preds"] == GOLDEN[f"{case}id_labels"]
    id_scores = GOLDEN[f"{case}id_msp"], GOLDEN[f"{case}id_ood"]
    return *id_scores, correct, GOLDEN[f"{case}ood_msp"], GOLDEN[f"{case}ood_ood"]


def shuffled_rows(five):
    """The same images as one table, ID and OOD mixed; an OOD image's `is_correct` must not matter."""
    id_confidence, id_score, correct, ood_confidence, ood_score = five
    rng = np.random.default_rng(0)
    columns = (
        np.append(id_confidence, ood_confidence),
        np.append(id_score, ood_score),
        np.append(correct, rng.random(ood_score.size) < 0.5),
        np.arange(correct.size + ood_score.size) >= correct.size,
    )
    order = rng.permutation(columns[0].size)
    return [column[order] for column in columns]


def test_merged_parts_equal_the_whole_and_the_golden_values(five, request):
    columns = shuffled_rows(five)
    parts = [[column[rows] for column in columns] for rows in np.array_split(np.arange(columns[0].size), 7)]
    score_range = ScoreRange.from_array(parts[0][1])
    for part in parts[1:]:
        score_range = score_range.merge(ScoreRange.from_array(part[1]))
    counts = GridCounts.from_arrays(*parts[0], score_range)
    for part in parts[1:]:
        counts = counts.merge(GridCounts.from_arrays(*part, score_range))
    result, ood_only = counts.result(), (five[1], five[2], five[4])
    assert result.ds_f1 == ds_f1(*five, method="grid")
    assert result.ds_aurc == ds_aurc(*five, method="grid")
    assert result.ood_f1 == ood_f1(*ood_only, method="grid")
    assert result.ood_aurc == ood_aurc(*ood_only, method="grid")
    case = request.node.callspec.params["five"]
    for name in ("ds_f1", "ds_aurc", "ood_f1", "ood_aurc"):
        assert getattr(result, name) == pytest.approx(float(GOLDEN[f"{case}sureplus_{name}"]), abs=1e-6)


def test_mistakes_are_named():
    two = [0.5, 0.6], [1.0, 2.0], [True, False]
    with pytest.raises(ValueError, match=r"ood_score: got values in \[1.0, 2.0\], wanted \[0, 1\]"):
        GridCounts.from_arrays(*two, [False, True], ScoreRange(0, 1))
    with pytest.raises(ValueError, match="is_ood: got no OOD image"):
        GridCounts.from_arrays(*two, [False, False], ScoreRange(1, 2)).result()
    with pytest.raises(ValueError, match="is_ood: got no ID image"):
        GridCounts.from_arrays(*two, [True, True], ScoreRange(1, 2)).result()
    with pytest.raises(ValueError, match="is_correct and is_ood: got different lengths"):
        GridCounts.from_arrays(*two, [True], ScoreRange(1, 2))
    with pytest.raises(ValueError, match="ood_score: got infinite values"):
        ScoreRange.from_array([np.inf])
