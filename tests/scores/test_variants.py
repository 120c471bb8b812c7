"""Columns of scores of images with other hyper-parameters: named once, found again."""

import pytest
import torch

from rtk.scores import SCORES, Predictions, apply_score, fit_score
from rtk.scores.gradients import doctor_perturbed
from rtk.scores.variants import column_of, score_of, searched_columns


def test_a_column_says_which_score_it_is_and_how():
    odin = SCORES["odin"]
    assert column_of(odin, {}) == column_of(odin, odin.score_defaults) == "odin"
    column = column_of(odin, {"temperature": 2, "epsilon": 5e-5, "step": "up"})
    assert column == 'odin{"epsilon": 5e-05, "temperature": 2}'
    assert score_of(column) == ("odin", {"temperature": 2, "epsilon": 5e-5})
    assert score_of("odin") == ("odin", {})


def test_the_protocol_searches_the_published_values():
    wanted = {"odin": 180, "doctor_perturbed": 180, "rr_fast": 15, "rr_bs": 15, "fab": 0}
    assert {name: len(searched_columns(name)) for name in wanted} == wanted
    assert "rr_fast" in searched_columns("rr_fast")  # at T = 1
    assert len(set(searched_columns("odin"))) == 180


@pytest.mark.parametrize("values", [{}, {"temperature": 3}])
def test_a_fitted_score_reads_its_own_column(values):
    column = column_of(SCORES["rr_fast"], values)
    given = {column: torch.arange(4.0), "rr_fast@": torch.zeros(4)}
    images = Predictions(torch.randn(4, 3), torch.randn(4, 2), None, given)
    assert torch.equal(apply_score("rr_fast", fit_score("rr_fast", **values), images), given[column])


@pytest.mark.parametrize("temperature", [0.6, 1.5])
@pytest.mark.parametrize("step", ["up", "down"])
def test_doctor_steps_along_its_own_gradient(temperature, step):
    generator = torch.Generator().manual_seed(0)
    net = torch.nn.Sequential(
        torch.nn.Flatten(), torch.nn.Linear(12, 5), torch.nn.Tanh(), torch.nn.Linear(5, 4)
    ).double()
    images = torch.rand(6, 3, 2, 2, generator=generator, dtype=torch.float64)

    def d_alpha(x):
        g = (net(x) / temperature).softmax(1).square().sum(1)
        return -(1 - g) / g

    leaf = images.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(d_alpha(leaf).sum(), leaf)
    expected = d_alpha(images + (0.01 if step == "up" else -0.01) * gradient.sign())
    found = doctor_perturbed(net, images, temperature=temperature, epsilon=0.01, step=step)
    torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-12)
    assert ((found > d_alpha(images)) == (step == "up")).all()
