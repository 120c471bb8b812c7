"""The documentation's own term and method: loaded as a user's files, trained, saved and restored."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from rtk.config import ConfigError, load_config
from rtk.config.load import dump_config, valid_keys
from rtk.config.search_space import base_config, parse_space
from rtk.data.decode.arrays import ImageArrays
from rtk.data.sets.of_run import RunSets
from rtk.objectives import CLEAN, Observed, Term, TermConfig, TermSetup, active_terms, register
from rtk.optim.shards import LocalShards
from rtk.runs.checkpoints import resolve_checkpoint
from rtk.runs.folder import RunFolder
from rtk.runtime.ranks import barrier, rank, world_size
from rtk.train.job import TrainingData, TrainingJob
from rtk.train.plan import plan_recipe
from rtk.train.shard_reader import ShardReader
from rtk.train.worker import run_job
from rtk.tune.check import check_space
from tests.docs.examples import EXAMPLES, load_example, restored_tables
from tests.train.ranks import run_on_ranks

CLASSES, ROWS, BATCH, SIDE = 4, 16, 8, 32
IDS = np.random.default_rng(5).permutation(1000)[:ROWS]
ON = ["objective.early_learning.weight=2", "lookahead.every=3"]
HISTORY = ("right", "seen", "steps")  # of CRL, rtk's own term that keeps a state
# No batch statistics, so that a batch may be cut; no kinks, which would turn rounding into steps.
SETTINGS = [
    f"plugins=[{EXAMPLES}/my_term.py, {EXAMPLES}/my_method.py]",
    *ON,
    "objective.crl.weight=1",
    "model.name=timm/test_vit",
    "model.width=null",
    f"train.batch_size={BATCH}",
    "train.precision=fp32",
    "train.threads=1",
    "schedule.name=constant",
    "data.validation_near_ood={}",
    "data.validation_far_ood={}",
]


@pytest.fixture
def examples():
    with restored_tables():
        yield load_example("my_term"), load_example("my_method")


def test_both_are_keys_of_the_config(examples, tmp_path):
    config = load_config("digits_demo", [*ON, "objective.early_learning.decay=0.9"])
    assert (config.objective.early_learning.decay, config.lookahead.share) == (0.9, 0.5)
    path = tmp_path / "config.yaml"
    path.write_text(dump_config(config))
    assert load_config(path) == config
    assert {"objective.early_learning.weight", "lookahead.every"} <= set(valid_keys())
    with pytest.raises(ConfigError, match=r"nearest valid key is 'objective.early_learning.decay'"):
        load_config("digits_demo", ["objective.early_learning.dekay=1"])
    with pytest.raises(ConfigError, match=r"objective.early_learning.decay: got 2"):
        load_config("digits_demo", ["objective.early_learning.decay=2"])
    with pytest.raises(ConfigError, match=r"^objective.early_learning.weight: .* learns no label"):
        load_config("digits_ce", [*ON, "objective.cross_entropy.weight=0"])


def test_a_sweep_may_search_them(examples):
    tree = {
        "objectives": {"val/accuracy": "max"},
        "space": {
            "objective.early_learning.weight": {"uniform": [0, 3]},
            "lookahead.share": {"choice": [0.5, 0.8]},
        },
    }
    space = parse_space(tree, "space")
    check_space(space, base_config(space, "digits_demo"))


def test_the_plan_counts_the_slow_weights(examples):
    off, on = (
        plan_recipe(load_config("digits_demo", [f"lookahead.every={every}"]), CLASSES)[0].parts
        for every in (0, 5)
    )
    weights = off["optimizer"]  # momentum: one number a weight
    assert on["averages"] - off["averages"] == weights


def test_a_file_may_be_loaded_again_and_another_may_not_take_its_name(examples):
    load_example("my_term")
    load_example("my_method")

    class Other(TermConfig):
        """A block of another file."""

    with pytest.raises(ValueError, match=r"term 'early_learning' exists already, in .*my_term.py"):
        register(Term("early_learning", Other, CLEAN, lambda *_: None))
    assert len(active_terms(load_config("digits_ce", ON).objective)) == 2


def test_early_learning_by_hand(examples):
    term = examples[0]
    config = term.EarlyLearningConfig(decay=0.75)
    state = term.EarlyLearningState(config, TermSetup(2, np.array([30, 10, 20]), torch.device("cpu")))
    even, sure = torch.zeros(1, 2), torch.tensor([[100.0, 0.0]])
    state.update(Observed(torch.tensor([20]), sure, torch.tensor([0])))
    torch.testing.assert_close(state.average, torch.tensor([[0, 0], [0.25, 0], [0, 0]]))
    state.update(Observed(torch.tensor([20, 10]), torch.cat([even, sure]), torch.tensor([0, 0])))
    torch.testing.assert_close(state.average, torch.tensor([[0.25, 0], [0.3125, 0.125], [0, 0]]))


def test_lookahead_by_hand(examples):
    method = examples[1]
    weight = torch.nn.Parameter(torch.tensor([1.0]))
    shards = LocalShards(torch.optim.SGD([weight], lr=1.0))
    ahead = method.Lookahead(shards, method.LookaheadConfig(every=2, share=0.25))
    seen = []
    for _ in range(4):
        weight.data += 1
        ahead.after_step()
        seen.append(weight.item())
    assert seen == [2.0, 1.5, 2.5, 2.0]


# ---------------------------------------------------------------- runs, on one and two ranks


def arrays(seed: int, rows: int = ROWS) -> ImageArrays:
    generator = np.random.default_rng(seed)
    images = generator.integers(0, 256, (rows, 3, SIDE, SIDE), dtype=np.uint8)
    return ImageArrays(images, generator.integers(0, CLASSES, rows), IDS[:rows])


def train(folder: Path, stage: int, steps: int, resume: bool = False) -> None:
    """A run on this group of ranks, from its last checkpoint with `resume`."""
    changes = [f"train.zero_stage={stage}", f"train.workers={world_size()}", f"train.duration={steps}steps"]
    config = load_config("digits_ce", [*SETTINGS, *changes, f"output={folder.parent}"])
    if rank() == 0 and not resume:
        RunFolder.create(config, folder.name)
    barrier()
    tree = config.model_dump(mode="json")
    job = TrainingJob(str(folder), tree, CLASSES, ROWS, resume)
    data = TrainingData(RunSets(train=arrays(0), validation=arrays(1, 8)))
    outcome = run_job(job, data, torch.device("cpu"), lambda report: None)
    assert outcome["status"] == "finished", outcome


def on_two_ranks(folder: Path) -> None:
    for stage in (1, 3):
        train(folder / f"two-{stage}", stage, 6)
    train(folder / "moved", 3, 4)  # Lookahead is between two looks


def on_one_rank(folder: Path) -> None:
    train(folder / "one", 1, 6)
    train(folder / "moved", 1, 6, resume=True)


def kept(run: Path) -> dict[str, torch.Tensor]:
    """The term's average, and the slow weights in one vector, in a run's last checkpoint."""
    last = resolve_checkpoint(run / "checkpoints" / "last")
    reader = ShardReader(last)
    slow = [reader.read("slow", name, 0, size) for name, size in sorted(reader.sizes("slow").items())]
    common = load_file(last / "common.safetensors")
    history = {name: common[f"term|crl|{name}"] for name in HISTORY}
    return {"average": common["term|early_learning|average"], "slow": torch.cat(slow), **history}


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs")
    run_on_ranks(2, on_two_ranks, folder, folder=folder)
    run_on_ranks(1, on_one_rank, folder, folder=folder)
    return {name: kept(folder / name) for name in ("one", "two-1", "two-3", "moved")}


@pytest.mark.slow
@pytest.mark.parametrize("name", ["two-1", "two-3", "moved"])
def test_what_they_keep_does_not_depend_on_ranks_stage_and_interruption(runs, name):
    for what, wanted in runs["one"].items():
        torch.testing.assert_close(runs[name][what], wanted, rtol=0, atol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["two-1", "two-3", "moved"])
def test_the_history_of_crl_is_the_same_image_by_image(runs, name):
    for what in HISTORY:
        assert torch.equal(runs[name][what], runs["one"][what])
    assert runs["one"]["seen"].tolist() == [3] * ROWS
    assert 0 < runs["one"]["right"].sum() < 3 * ROWS


@pytest.mark.slow
def test_every_training_image_has_been_seen(runs):
    """Three times, so that its average holds 1 - decay^3 of the probability."""
    average = runs["one"]["average"]
    torch.testing.assert_close(average.sum(1), torch.full((ROWS,), 1 - 0.7**3))
    assert len(average.unique(dim=0)) == ROWS
