"""Sharpness-aware steps under every ZeRO stage against one float64 process without sharding."""

import pytest

from tests.train.ranks import run_on_ranks
from tests.train.sharded_cases import (
    BF16_CASES,
    CASES,
    MUTATIONS,
    RANKS,
    STAGES,
    Case,
)
from tests.train.sharded_ranks import run_cases, stop_in_cases
from tests.train.sharded_reference import reference

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    cases = CASES + BF16_CASES + MUTATIONS
    return run_on_ranks(RANKS, run_cases, cases, folder=tmp_path_factory.mktemp("ranks"))


def difference(case, results) -> float:
    pairs = zip(results[case], reference(case), strict=True)
    return max((ours.double() - wanted).abs().max().item() for ours, wanted in pairs)


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_two_ranks_equal_one_process(case, results):
    assert difference(case, results) <= 1e-6


@pytest.mark.parametrize("case", MUTATIONS, ids=lambda case: case.name)
def test_a_broken_ascent_would_be_seen(case, results):
    assert difference(case, results) > 1e-4


@pytest.mark.parametrize("case", BF16_CASES, ids=lambda case: case.name)
def test_bf16_stays_near_fp32(case, results):
    """Autocast, and DeepSpeed's bf16 mode: after ten steps no weight is further off than 5e-3."""
    assert 0 < difference(case, results) <= 5e-3


def test_what_goes_wrong_in_the_second_pass_leaves_the_weights_where_they_were(tmp_path):
    kept = run_on_ranks(RANKS, stop_in_cases, [Case(stage=stage) for stage in STAGES], folder=tmp_path)
    assert {case.stage: found for case, found in kept.items()} == {
        stage: {"exception": True, "loss": True} for stage in STAGES
    }
