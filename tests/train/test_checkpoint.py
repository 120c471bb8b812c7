"""Checkpoints from any ZeRO stage and number of ranks to any other, against one float64 process."""

from __future__ import annotations

import dataclasses

import pytest

from rtk.runs.checkpoints import CheckpointError, resolve_checkpoint
from rtk.train.checkpoint import read_state
from tests.train.ranks import run_on_ranks
from tests.train.sharded_cases import Case
from tests.train.sharded_ranks import sharded
from tests.train.sharded_reference import reference
from tests.train.used_memory import used_memory

pytestmark = pytest.mark.slow

# Two parameter groups, clipping, F-SAM's average, AdamW's moments and step, an EMA, a frozen layer, and how
# often CRL has seen every sample right, in the middle of an epoch.
CASE = Case(base="adamw", clip=True, frozen=True, crl=True)
PLACES = {  # name: ranks, ZeRO stage, nothing persistent under ZeRO-3
    "1 x zero0": (1, 0, False),
    "1 x zero1": (1, 1, False),
    "1 x zero3": (1, 3, False),
    "2 x zero0": (2, 0, False),
    "2 x zero1": (2, 1, False),
    "2 x zero2": (2, 2, False),
    "2 x zero3": (2, 3, False),
    "2 x zero3 tiny": (2, 3, True),
}
# What LookSAM keeps, in the middle of its cycle, the momentum that MSAM moves along, and ESAM's draws.
CHEAPER = [Case("looksam", base="adamw", every=3, clip=True), Case("msam", base="sgd"), Case("esam")]
MOVES = [(one, other) for one in PLACES for other in PLACES]


def case_at(place: str) -> Case:
    _, stage, tiny = PLACES[place]
    return dataclasses.replace(CASE, stage=stage, tiny=tiny)


def write_all(places, folder):
    """Write a checkpoint at each place; return the results of uninterrupted runs there."""
    for place in places:
        sharded(case_at(place), stop=f"{folder}/{place}")
    return {place: sharded(case_at(place)) for place in places}


def continue_all(moves, folder):
    return {(one, other): sharded(case_at(other), start=f"{folder}/{one}") for one, other in moves}


def move_cheaper(folder):
    """The cheaper sharpness-aware steps, on from ZeRO-3 under ZeRO-1."""
    results = {}
    for case in CHEAPER:
        place = f"{folder}/{case.variant}"
        sharded(dataclasses.replace(case, stage=3, tiny=True), stop=place)
        results[case] = sharded(case, start=place)
    return results


def continue_and_move(moves, folder):
    with used_memory():
        return continue_all(moves, folder) | move_cheaper(folder)


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    """Uninterrupted results by place, and continued ones by move."""
    folder = tmp_path_factory.mktemp("checkpoints")
    straight, moved = {}, {}
    for ranks in (1, 2):
        places = [place for place in PLACES if PLACES[place][0] == ranks]
        straight |= run_on_ranks(ranks, write_all, places, str(folder), folder=folder)
    for ranks, work in ((1, continue_all), (2, continue_and_move)):
        moves = [move for move in MOVES if PLACES[move[1]][0] == ranks]
        moved |= run_on_ranks(ranks, work, moves, str(folder), folder=folder)
    return straight, moved


def difference(one, other) -> float:
    return max((a.double() - b.double()).abs().max().item() for a, b in zip(one, other, strict=True))


@pytest.mark.parametrize("move", MOVES, ids=" to ".join)
def test_continued_anywhere_ends_as_one_uninterrupted_process(results, move):
    assert difference(results[1][move], reference(CASE)) <= 1e-6


@pytest.mark.parametrize("case", CHEAPER, ids=lambda case: case.name)
def test_the_cheaper_sharpness_aware_steps_go_on_under_another_stage(results, case):
    assert difference(results[1][case], reference(case)) <= 1e-6


@pytest.mark.parametrize("place", PLACES)
def test_continued_in_place_is_bit_identical(results, place):
    straight, moved = results
    assert difference(moved[place, place], straight[place]) == 0.0


def refusals(folder):
    """What is said where a checkpoint does not fit the run, by what differs."""
    sharded(CASE, stop=folder)
    others = {
        "optimiser": {"base": "sgd"},
        "sharpness": {"variant": "none"},
        "parameters": {"frozen": False},
    }
    messages = {}
    for name, change in others.items():
        with pytest.raises(CheckpointError) as error:
            sharded(dataclasses.replace(CASE, **change), start=folder)
        messages[name] = str(error.value)
    return messages


def test_what_cannot_be_carried_is_refused_by_name(tmp_path):
    messages = run_on_ranks(1, refusals, str(tmp_path / "last"), folder=tmp_path)
    assert "holds the state of AdamW, but the run's optimiser is SGD" in messages["optimiser"]
    assert "holds an F-SAM gradient average, but sharpness.variant is none" in messages["sharpness"]
    assert "'layers.3.bias' is trained now, and was not in the saved run" in messages["parameters"]


def test_a_missing_checkpoint_is_answered_with_what_there_is(tmp_path):
    (tmp_path / "last").mkdir()
    (tmp_path / "last" / "state.json").write_text("{}")
    with pytest.raises(CheckpointError, match=r"best: no checkpoint there; there is last$"):
        read_state(tmp_path / "best")


def test_incomplete_checkpoint_is_refused(tmp_path):
    place = tmp_path / "last"
    run_on_ranks(2, sharded, dataclasses.replace(CASE, stage=3), "", str(place), folder=tmp_path)
    folder = resolve_checkpoint(place)
    (folder / "shard-00001.safetensors").unlink()
    with pytest.raises(Exception, match="damaged: shard-00001.safetensors: missing"):
        run_on_ranks(1, sharded, CASE, str(place), folder=tmp_path)
    (folder / "manifest.json").unlink()  # as before there were any
    with pytest.raises(Exception, match="incomplete|elements in the checkpoint"):
        run_on_ranks(1, sharded, CASE, str(folder), folder=tmp_path)
