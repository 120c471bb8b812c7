import pytest
import torch

from rtk.config.load import load_config
from rtk.objectives import active_terms
from rtk.train.risen import ImageLosses, image_losses


def test_images_are_chosen_by_terms_that_attack_nothing():
    """A weighted sum over these, micro-batch by micro-batch; attacks alone give no choice."""
    changes = ["objective.rat.weight=1", "objective.regmixup.weight=0.5", "objective.regpixmix.weight=0"]
    terms = {term.name: term for term in active_terms(load_config("digits_demo", changes).objective)}
    assert terms.keys() == {"cross_entropy", "rat", "regmixup"}
    found = ImageLosses()
    for number, losses in ((1, [1.0, 2.0]), (2, [3.0, 4.0])):
        for name, term in terms.items():
            found.note(number, [(term, torch.tensor(losses) * (100 if name == "rat" else 1))])
    assert found.rows().tolist() == [1.5, 3.0, 4.5, 6.0]
    with pytest.raises(ValueError, match="sharpness.variant: got esam, .* attacked images alone"):
        image_losses(None, [terms["rat"]], [], (0,))
