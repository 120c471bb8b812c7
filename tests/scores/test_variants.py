"""Columns of scores of images with other hyper-parameters: named once, found again."""

import pytest
import torch

from rtk.scores import (
    SCORES,
    FitData,
    Predictions,
    apply_score,
    compute_image_score,
    compute_score,
    fit_image_score,
    fit_score,
)
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
    wanted = {
        "odin": 180,
        "doctor_perturbed": 180,
        "relu_perturbed": 180,
        "rr_fast": 15,
        "rr_bs": 15,
        "fab": 0,
    }
    assert {name: len(searched_columns(name)) for name in wanted} == wanted
    assert "rr_fast" in searched_columns("rr_fast")  # at T = 1
    assert len(set(searched_columns("odin"))) == 180


@pytest.mark.parametrize("values", [{}, {"temperature": 3}])
def test_a_fitted_score_reads_its_own_column(values):
    column = column_of(SCORES["rr_fast"], values)
    given = {column: torch.arange(4.0), "rr_fast@": torch.zeros(4)}
    images = Predictions(torch.randn(4, 3), torch.randn(4, 2), None, given)
    assert torch.equal(apply_score("rr_fast", fit_score("rr_fast", **values), images), given[column])


def net_and_images():
    """A network without kinks, and images (6, 3, 2, 2), float64."""
    torch.manual_seed(0)
    layers = torch.nn.Flatten(), torch.nn.Linear(12, 5), torch.nn.Tanh(), torch.nn.Linear(5, 4)
    return torch.nn.Sequential(*layers).double(), torch.rand(6, 3, 2, 2, dtype=torch.float64)


@pytest.mark.parametrize("temperature", [0.6, 1.5])
@pytest.mark.parametrize("step", ["up", "down"])
def test_doctor_steps_along_its_own_gradient(temperature, step):
    net, images = net_and_images()

    def d_alpha(x):
        g = (net(x) / temperature).softmax(1).square().sum(1)
        return -(1 - g) / g

    leaf = images.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(d_alpha(leaf).sum(), leaf)
    expected = d_alpha(images + (0.01 if step == "up" else -0.01) * gradient.sign())
    found = doctor_perturbed(net, images, temperature=temperature, epsilon=0.01, step=step)
    torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-12)
    assert ((found > d_alpha(images)) == (step == "up")).all()


@pytest.mark.parametrize("temperature", [0.6, 1000])
@pytest.mark.parametrize("step", ["up", "down"])
def test_relu_steps_along_its_own_gradient(temperature, step):
    """Written out in float64; the matrix is that of the clean held-out images, which come in two batches."""
    net, images = net_and_images()
    held_out = torch.rand(40, 3, 2, 2, dtype=torch.float64)
    labels = torch.arange(40) % 4

    def probabilities(x):
        return (net(x) / temperature).softmax(1)

    with torch.no_grad():
        outer = torch.einsum("ni,nj->nij", probabilities(held_out), probabilities(held_out))
        wrong = net(held_out).argmax(1) != labels
    assert 0 < wrong.sum() < 40
    matrix = (0.5 * outer[wrong].mean(0) - 0.5 * outer[~wrong].mean(0)) * (1 - torch.eye(4))
    matrix = matrix.clamp(min=0) / matrix.clamp(min=0).norm()
    assert matrix.any()

    def relative_certainty(x):
        return -torch.einsum("ni,ij,nj->n", probabilities(x), matrix, probabilities(x))

    leaf = images.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(relative_certainty(leaf).sum(), leaf)
    expected = relative_certainty(images + (0.01 if step == "up" else -0.01) * gradient.sign())
    batches = [(held_out[:30], labels[:30]), (held_out[30:], labels[30:])]
    fitted = fit_image_score("relu_perturbed", net, [], batches)
    options = {"temperature": temperature, "step": step}
    found = compute_image_score("relu_perturbed", net, images, fitted, epsilon=0.01, **options)
    torch.testing.assert_close(found, expected.detach(), rtol=1e-9, atol=1e-12)
    assert ((found > relative_certainty(images)) == (step == "up")).all()


def test_relu_without_a_step_is_relu():
    net, images = net_and_images()
    held_out, labels = torch.rand(40, 3, 2, 2, dtype=torch.float64), torch.arange(40) % 4
    fitted = fit_image_score("relu_perturbed", net, [], [(held_out, labels)])
    found = compute_image_score("relu_perturbed", net, images, fitted, epsilon=0, temperature=1.3)
    with torch.no_grad():
        known = Predictions(net(held_out), held_out.flatten(1), labels)
        fit = FitData(known, known, torch.zeros(4, 12), torch.zeros(4))
        expected = compute_score("relu", Predictions(net(images), images.flatten(1)), fit, temperature=1.3)
    torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-12)


def test_relu_with_a_step_says_what_it_needs():
    net, images = net_and_images()
    with pytest.raises(ValueError, match="held_out: got None, wanted the images that relu_perturbed is fit"):
        fit_image_score("relu_perturbed", net, [])
    fitted = fit_image_score("relu_perturbed", net, [], [(images, torch.arange(6) % 4)])
    with pytest.raises(ValueError, match=r"temperature: got 0.7, wanted one of 0.2, 0.4, .*, 1000"):
        compute_image_score("relu_perturbed", net, images, fitted, temperature=0.7)
    with pytest.raises(ValueError, match="wanted torch.float32 or torch.float64"):
        compute_image_score("relu_perturbed", net, images.half(), fitted)
