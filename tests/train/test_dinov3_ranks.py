"""DINOv3 under ZeRO-3 on two ranks, against what Meta's code recorded and one float64 process."""

import numpy as np
import pytest
import torch

from tests.models.dinov3_cases import meta_state
from tests.train.dinov3_ranks import RANKS, all_cases, reference
from tests.train.ranks import run_on_ranks

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def results(tmp_path_factory, golden):
    folder = tmp_path_factory.mktemp("ranks")
    torch.save(meta_state(golden("dinov3_meta")), folder / "meta.pth")
    return run_on_ranks(RANKS, all_cases, folder / "meta.pth", folder=folder)


@pytest.fixture(scope="module")
def expected():
    return reference()


def test_random_weights_are_those_of_a_whole_model(results, expected):
    assert torch.equal(results["start"], expected["start"])


def test_no_parameter_is_whole_after_building(results):
    assert results["largest"] == 0


@pytest.mark.parametrize("step", [0, 1])
def test_sure_plus_steps_equal_one_float64_process(results, expected, step):
    ours, wanted = results["changes"][step], expected["changes"][step]
    assert (ours - wanted).norm() / wanted.norm() <= 1e-4


def test_metas_weights_give_its_tokens(results, golden):
    data = golden("dinov3_meta")
    np.testing.assert_allclose(results["tokens"][:, 0], data["x_norm_clstoken"], rtol=0, atol=1e-5)
    np.testing.assert_allclose(results["tokens"][:, 5:], data["x_norm_patchtokens"], rtol=0, atol=1e-5)
