"""When each term of the loss is on, as steps of a run."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rtk.config.sections import duration_steps

if TYPE_CHECKING:
    from rtk.config.objective import ObjectiveConfig, TermConfig


def term_steps(block: TermConfig, steps_per_epoch: int, total_steps: int) -> range:
    """Steps of a run in which a term is on."""
    first = duration_steps(block.begin, steps_per_epoch)
    end = total_steps if block.until is None else duration_steps(block.until, steps_per_epoch)
    if block.last is not None:
        length, word = block.last.split()
        turn = total_steps - duration_steps(length, steps_per_epoch)
        first, end = (first, min(end, turn)) if word == "off" else (max(first, turn), end)
    return range(first, end)


def course_durations(objective: ObjectiveConfig) -> dict[str, str]:
    """Durations after which terms begin or end, by dotted key; those that are not set are left out."""
    return {
        f"objective.{name}.{key}": value.split()[0]
        for name, block in objective.active().items()
        for key in ("begin", "until", "last")
        if (value := getattr(block, key)) not in (None, "0ep")
    }


def check_course(objective: ObjectiveConfig, duration: str, steps_per_epoch: int) -> None:
    """Check that terms begin and end within a run, and that at every step they can be together.

    Args:
        objective: terms of the run.
        duration: of the run.
        steps_per_epoch: updates of the weights in an epoch; 1 will do where all durations have one unit.

    Raises:
        ValueError: naming the key.
    """
    total_steps = duration_steps(duration, steps_per_epoch)
    if not total_steps:  # train.duration is what is wrong then, and whoever starts a run says so
        return
    for key, text in course_durations(objective).items():
        if duration_steps(text, steps_per_epoch) > total_steps:
            raise ValueError(f"{key}: got {text!r}, wanted at most train.duration, {duration!r}")
    spans = {
        name: term_steps(block, steps_per_epoch, total_steps) for name, block in objective.active().items()
    }
    for name, span in spans.items():
        if not span:
            raise ValueError(
                f"objective.{name}: with begin, until and last as they are it is on in no step, wanted one"
            )
    turns = {0, *(step for span in spans.values() for step in (span.start, span.stop) if step < total_steps)}
    for step in sorted(turns):
        on = [name for name, span in spans.items() if step in span]
        try:
            objective.check_together(on)
        except ValueError as error:
            when = f"after {step} {'epochs' if duration.endswith('ep') and steps_per_epoch == 1 else 'steps'}"
            raise ValueError(f"{error} ({when})") from None
