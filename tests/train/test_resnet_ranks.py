"""A ResNet ends with the same weights on any number of workers."""

from __future__ import annotations

import pytest

from tests.train.resnet_ranks import on_ranks

pytestmark = pytest.mark.slow
PARTS = {"train.accumulation": 2, "train.duration": "5steps"}


ESAM = {**PARTS, "sharpness.variant": "esam"}


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    return on_ranks(1, tmp_path_factory.mktemp("one"), whole={}, parts=PARTS, esam=ESAM)


def difference(one, other) -> float:
    """Largest of weights, running statistics, their averages and re-estimated statistics."""
    assert one.keys() == other.keys()
    return max((one[name] - other[name]).abs().max().item() for name in one)


def test_twenty_sure_plus_steps_end_the_same_on_four_workers(alone, tmp_path):
    assert difference(on_ranks(4, tmp_path, whole={})["whole"], alone["whole"]) <= 1e-5


def test_twenty_sure_plus_steps_end_the_same_on_two_workers(alone, tmp_path):
    """In micro-batches under ZeRO-2 too; statistics of each worker's own would be seen."""
    sharded = {**PARTS, "train.zero_stage": 2}
    local = {**PARTS, "model.batchnorm": "local"}
    esam = {**ESAM, "train.zero_stage": 3}  # which chooses some of the images of both
    found = on_ranks(2, tmp_path, whole={}, parts=sharded, local=local, esam=esam)
    assert difference(found["whole"], alone["whole"]) <= 1e-5
    assert difference(found["parts"], alone["parts"]) <= 1e-5
    assert difference(found["esam"], alone["esam"]) <= 1e-5
    assert difference(found["local"], alone["parts"]) > 1e-3
