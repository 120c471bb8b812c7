"""What every score that runs the model promises."""

import numpy as np
import pytest
import torch

from rtk.scores import SCORES, compute_image_score, fit_image_score
from tests.scores.worlds import NETS, small_net

OF_IMAGES = [(name, {}) for name, score in SCORES.items() if score.inputs == "images"] + [
    *(("rr_fast", {"definition": definition}) for definition in ("published", "exp", "smooth")),
    ("rr_bs", {"solver": "pgd"}),
    ("deepfool", {"norm": "l2"}),
]
every_image_score = pytest.mark.parametrize(
    ("name", "options"), OF_IMAGES, ids=[" ".join([n, *map(str, o.values())]) for n, o in OF_IMAGES]
)


def image_score(name, net, images, **options):
    labels = torch.arange(len(images)) % 5
    fitted = fit_image_score(name, net, [(images, labels)], [(images.flip(0), labels)])
    return compute_image_score(name, net, images, fitted or None, **options)


@every_image_score
@pytest.mark.parametrize("case", NETS)
def test_degenerate_models_have_finite_scores(name, options, case):
    images = torch.rand(6, 3, 10, 10, generator=torch.Generator().manual_seed(0))
    images[0], images[1] = 0, 1
    score = image_score(name, small_net(**NETS[case]), images, **options)
    assert score.shape == (6,)
    assert score.isfinite().all()


@pytest.mark.parametrize("definition", ["paper", "published", "exp", "smooth"])
def test_without_a_gradient_the_fast_radius_is_the_largest(definition):
    """A prediction that no pixel can change; a tied one of the linear definitions has no lead to lose."""
    images = torch.rand(2, 3, 10, 10)
    certain = small_net(bias=[5.0, 0.0, -5.0, 1.0, 2.0])
    assert image_score("rr_fast", certain, images, definition=definition).tolist() == [1, 1]
    if definition == "exp":
        assert image_score("rr_fast", small_net(bias=[0.0] * 5), images, definition="exp").tolist() == [0, 0]


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_gram_of_a_model_in_half_precision(dtype):
    """Statistics of degree two leave float16's range; they are taken in float32, whatever the maps are in."""
    images = torch.rand(12, 3, 10, 10, generator=torch.Generator().manual_seed(0))
    net = small_net(8.0)
    wide = image_score("gram", net, images)
    score = image_score("gram", net.to(dtype), images.to(dtype))
    assert score.dtype == torch.float32
    assert score.isfinite().all()
    assert np.corrcoef(score.argsort().argsort(), wide.argsort().argsort())[0, 1] > 0.9


@pytest.mark.parametrize("name", [n for n, s in SCORES.items() if s.inputs == "images" and s.moves_pixels])
def test_pixels_are_not_moved_in_half_precision(name):
    with pytest.raises(ValueError, match="images: got torch.float16, wanted torch.float32"):
        compute_image_score(name, small_net(), torch.rand(2, 3, 10, 10).half())
