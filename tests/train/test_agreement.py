"""What the ranks tell each other of a step, read at once or steps later."""

from __future__ import annotations

import pytest
import torch

from rtk.train.agreement import NonFiniteLossError, StepDone, StepsUnderWay, agree
from tests.train.late_ranks import STEPS, runs
from tests.train.ranks import run_on_ranks


def test_means_are_named():
    losses = {"a": torch.tensor(1.0), "b": torch.tensor(2.0), "a at w + e": torch.tensor(3.0)}
    assert agree(losses, ["a", "b"], asked=2).read() == StepDone({"a": 1.0, "b": 2.0}, 2)


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_a_loss_that_is_not_finite_names_step_and_term(bad):
    losses = {"cross_entropy": torch.tensor(1.0), "cross_entropy at w + e": torch.tensor(bad)}
    agreement = agree(losses, ["cross_entropy"], step=7)
    with pytest.raises(
        NonFiniteLossError, match=r"step 8: loss term 'cross_entropy at w \+ e' is not finite"
    ):
        agreement.read()


def test_steps_are_read_in_order_and_some_left():
    said = []
    under_way = StepsUnderWay(lambda *given: said.append(given))
    for step, (loss, asked) in enumerate([(1.0, 1), (2.0, 2), (3.0, 0), (torch.nan, 0)]):
        agreement = agree({"a": torch.tensor(loss)}, ["a"], asked=asked, step=step)
        under_way.add(agreement, rate=0.5, waited=float(step))
    assert under_way.read(4) == 0
    assert not said
    assert under_way.read(1) == 2
    assert said == [(0, {"a": 1.0}, 0.5, 0.0), (1, {"a": 2.0}, 0.5, 1.0), (2, {"a": 3.0}, 0.5, 2.0)]
    with pytest.raises(NonFiniteLossError, match="step 4"):
        under_way.read()


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    folder = tmp_path_factory.mktemp("late")
    return run_on_ranks(2, runs, str(folder), folder=folder)


def is_same(one, other) -> bool:
    return one["rows"] == other["rows"] and is_as_far(one, other)


def is_as_far(one, other) -> bool:
    return all(torch.equal(value, other["weights"][name]) for name, value in one["weights"].items())


def test_a_run_is_the_same_whenever_its_losses_are_read(found):
    assert [found[name]["status"] for name in ("at once", "late")] == ["finished", "finished"]
    assert is_same(found["late"], found["at once"])


def test_a_stop_that_is_read_late_saves_where_the_run_is_then(found):
    assert (found["stopped"]["status"], found["stopped"]["step"]) == ("interrupted", 8)
    assert found["resumed"]["status"] == "finished"
    assert is_as_far(found["resumed"], found["at once"])


@pytest.mark.parametrize(
    ("name", "step"),
    [("spoiled", 6), ("spoiled at the end", 2 * STEPS), ("spoiled before a stop", 6)],
)
def test_a_loss_that_is_not_finite_reaches_no_checkpoint(found, name, step):
    outcome = found[name]
    assert outcome["status"] == "failed"
    assert outcome["message"] == f"step {step}: loss term 'cross_entropy' is not finite"
    assert all(value.isfinite().all() for value in outcome["weights"].values())
    assert {row for row, *_ in outcome["rows"]} <= {*range(step)}


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_on_cuda_nothing_waits_before_it_is_read():
    losses = {"a": torch.ones((), device="cuda"), "b": torch.full((), 2.0, device="cuda")}
    agree(losses, ["a"])  # what is allocated once
    torch.cuda.set_sync_debug_mode("error")
    try:
        agreement = agree(losses, ["a"], asked=1)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert agreement.read() == StepDone({"a": 1.0}, 1)
