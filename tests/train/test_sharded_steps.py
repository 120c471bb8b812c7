"""Sharpness-aware steps under every ZeRO stage against one float64 process without sharding."""

import socket

import pytest

from tests.train.sharded_cases import CASES, MUTATIONS, reference, run_on_two_ranks

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    return run_on_two_ranks(CASES + MUTATIONS, str(tmp_path_factory.mktemp("ranks") / "results.pt"), port)


def difference(case, results) -> float:
    pairs = zip(results[case], reference(case), strict=True)
    return max((ours.double() - wanted).abs().max().item() for ours, wanted in pairs)


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_two_ranks_equal_one_process(case, results):
    assert difference(case, results) <= 1e-6


@pytest.mark.parametrize("case", MUTATIONS, ids=lambda case: case.name)
def test_a_broken_ascent_would_be_seen(case, results):
    assert difference(case, results) > 1e-4
