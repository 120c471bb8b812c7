import pytest
import torch

from rtk.train.step import NonFiniteLossError, finite_means


def test_means_are_named():
    assert finite_means({"a": torch.tensor(1.0), "b": torch.tensor(2.0)}, 0) == {"a": 1.0, "b": 2.0}


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_a_loss_that_is_not_finite_names_step_and_term(bad):
    losses = {"cross_entropy": torch.tensor(1.0), "cross_entropy at w + e": torch.tensor(bad)}
    with pytest.raises(
        NonFiniteLossError, match=r"step 8: loss term 'cross_entropy at w \+ e' is not finite"
    ):
        finite_means(losses, 7)
