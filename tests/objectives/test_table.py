"""The table of terms: their order, what they share, and what a term of one's own brings."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from rtk.config import ConfigError, load_config
from rtk.config.load import build_config
from rtk.data.views.maker import View
from rtk.objectives import CLEAN, TERMS, Term, TermConfig, ViewKind, active_terms, register
from rtk.objectives.objective import compute_losses, forward_passes
from tests.docs.examples import restored_tables


class OwnConfig(TermConfig):
    """A block without settings."""


class BesideConfig(TermConfig):
    """A block of a term that starts from the mixed view."""

    beside = ("regmixup",)


def objective(**weights):
    tree = {name: {"weight": weight} for name, weight in weights.items()}
    rest = {"data": {"train": "x", "outliers": "x"}, "model": {"reject_class": True}}
    return build_config({**rest, "objective": tree}).objective


@pytest.fixture(autouse=True)
def tables():
    with restored_tables():
        yield


def means(logits, view, config, state):
    return logits.mean(1)


def test_the_order_of_back_propagation_and_that_of_the_keys():
    everything = objective(**dict.fromkeys(TERMS.keys() - {"palm"}, 1.0))  # whose head is another
    mixes = ["regmixup", "regpixmix", "cutmix", "openmix", "mixoe"]
    order = ["cross_entropy", "rat", "crl", "ascood", *mixes, "augmix", "outlier_exposure"]
    assert [term.name for term in active_terms(everything)] == order
    first = ["cross_entropy", *mixes[:3], "augmix", *mixes[3:], "outlier_exposure"]
    assert list(everything.model_dump()) == [*first, "rat", "crl", "ascood", "palm"]


def test_terms_that_look_at_one_view_share_a_forward_pass():
    register(Term("own", OwnConfig, CLEAN, means))
    terms = active_terms(objective(own=1.0, regmixup=1.0))
    calls = []
    model = nn.Sequential(nn.Flatten(), nn.Linear(12, 5))
    model.register_forward_hook(lambda *parts: calls.append(len(parts[2])))
    views = {
        name: View(torch.rand(6, 3, 2, 2), torch.zeros(6, dtype=torch.long)) for name in ("clean", "mixed")
    }
    passes = [[term.name for term, _ in together] for together in compute_losses(model, views, terms)]
    assert passes == [["cross_entropy", "own"], ["regmixup"]]
    assert calls == [6, 6]


def test_an_attack_starts_from_one_term_alone():
    """RAT's direction is that of the clean cross-entropy, whatever else looks at the clean view."""
    register(Term("own", OwnConfig, CLEAN, means))
    terms = active_terms(objective(own=1.0, rat=1.0))
    model = nn.Sequential(nn.Flatten(), nn.Linear(12, 5))
    views = {"clean": View(torch.rand(6, 3, 2, 2), torch.zeros(6, dtype=torch.long))}
    names = []
    for together in compute_losses(model, views, terms):
        names.append([term.name for term, _ in together])
        sum(losses.sum() for _, losses in together).backward()
    assert names == [["cross_entropy"], ["own"], ["rat"]]


def test_an_attack_on_another_view():
    mixed = TERMS["regmixup"].view
    register(
        Term(
            "own",
            BesideConfig,
            mixed,
            means,
            attack=lambda model, clean, config: clean.images + clean.images.grad,
        )
    )
    with pytest.raises(ConfigError, match=r"^objective.own.weight: needs objective.regmixup.weight above 0"):
        objective(own=1.0)
    terms = active_terms(objective(own=1.0, regmixup=1.0))
    model = nn.Sequential(nn.Flatten(), nn.Linear(12, 5))
    images, soft = torch.rand(6, 3, 2, 2), torch.rand(6, 5).softmax(1)
    views = {"clean": View(images, soft.argmax(1)), "mixed": View(images, soft)}
    found = {}
    for together in compute_losses(model, views, terms):
        found |= {term.name: losses.detach() for term, losses in together}
        sum(losses.mean() for _, losses in together).backward()
    leaf = images.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(nn.functional.cross_entropy(model(leaf), soft), leaf)
    torch.testing.assert_close(found["own"], model(images + gradient).mean(1))


def test_an_attack_with_nothing_to_start_from_is_named():
    alone = ViewKind("alone", "alone", lambda batch, config: batch.view(batch.images))
    register(Term("own", OwnConfig, alone, means, attack=lambda *_: None))
    with pytest.raises(ValueError, match=r"objective.own: starts from the view 'alone'"):
        forward_passes(active_terms(objective(own=1.0)), concatenate=False)


def test_a_view_of_another_file_keeps_its_name():
    with pytest.raises(ValueError, match=r"view 'mixed' exists already, in .*regmixup.py"):
        register(Term("own", OwnConfig, ViewKind("mixed", "mine", lambda batch, config: None), means))
    with pytest.raises(ValueError, match="term name: got 'my term'"):
        register(Term("my term", OwnConfig, CLEAN, means))


def test_an_objective_that_learns_no_label_is_refused_by_name():
    overrides = ["objective.augmix.weight=12", "objective.cross_entropy.weight=0"]
    wanted = (
        r"^objective.augmix.weight: .*compares predictions with each other and learns no label, wanted .*"
    )
    with pytest.raises(ConfigError, match=wanted + "objective.cross_entropy.weight"):
        load_config("digits_ce", overrides)
