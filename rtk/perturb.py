"""Public name of the steps on the input: `from rtk.perturb import fgsm, pgd`."""

from rtk.models.perturb import fgsm, input_gradient, logits_and_gradient, pgd

__all__ = ["fgsm", "input_gradient", "logits_and_gradient", "pgd"]
