"""States of `SharpnessAware` as saved before gradient averages belonged to parameters."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor


def as_laid_out_now(saved: Mapping[str, Any], parameters: Sequence[Tensor], kind: str) -> Mapping[str, Any]:
    """A state in today's layout, from one whose averages are a list over the parameters that were trained.

    Args:
        saved: a state in either layout; today's is returned as it is.
        parameters: of all groups, in order.
        kind: key of the averages in the state of a parameter.

    Raises:
        ValueError: the averages do not fit the parameters that are trained now.
    """
    if "base" not in saved:
        return saved
    averages = saved["gradient_average"] or []
    trained = [number for number, parameter in enumerate(parameters) if parameter.requires_grad]
    got, wanted = [tuple(m.shape) for m in averages], [tuple(parameters[n].shape) for n in trained]
    if averages and got != wanted:
        raise ValueError(f"gradient_average: got shapes {got}, wanted those of the trained weights, {wanted}")
    state = {number: dict(kept) for number, kept in saved["base"]["state"].items()}
    for number, average in zip(trained, averages, strict=False):
        state.setdefault(number, {})[kind] = average
    return {**saved["base"], "state": state, "steps": saved["steps"]}
