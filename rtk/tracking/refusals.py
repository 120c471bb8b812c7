"""What MLflow refuses for good, told from a server that is away.

The one is said and left out, the other waited for.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any, TypeVar

from rtk.config.secrets import without_secrets

T = TypeVar("T")
# Of `MlflowException`: the server has understood, and would answer the same again.
FOR_GOOD = ("INVALID_PARAMETER_VALUE", "BAD_REQUEST", "MALFORMED_REQUEST")
NO_ANSWER = (None, "INTERNAL_ERROR", "TEMPORARILY_UNAVAILABLE", "DEADLINE_EXCEEDED")
DELETED = "deleted"


class DeletedError(RuntimeError):
    """The run, or the experiment that it belongs to, is deleted in MLflow; the message says the ways out."""


def is_refusal(error: Exception) -> bool:
    """Whether MLflow would answer the same to every repetition."""
    status = getattr(getattr(error, "response", None), "status_code", None)  # of a file's upload
    return getattr(error, "error_code", None) in FOR_GOOD or status == 400


def is_answer(error: Exception) -> bool:
    """Whether an error comes from a server that is there."""
    return isinstance(error, DeletedError) or getattr(error, "error_code", None) not in NO_ANSWER


def unless_there(create: Callable[[], Any]) -> None:
    """Create what MLflow may have already."""
    from mlflow.exceptions import MlflowException

    try:
        create()
    except MlflowException as error:
        if error.error_code != "RESOURCE_ALREADY_EXISTS":
            raise


def reason_of(error: Exception) -> str:
    """First line of an error, short enough for a terminal, without the password that an address may hold."""
    lines = (str(error).strip() or type(error).__name__).splitlines()
    said = (line for line in lines if not line.startswith("(raised as a result of"))  # SQLAlchemy's advice
    return without_secrets(next(said, lines[0])[:300])


def send_all(send: Callable[[Sequence[T]], Any], items: Sequence[T]) -> Iterator[tuple[T, str]]:
    """Send items in one request, in ever smaller ones where MLflow refuses it; yields the refused and why.

    Raises:
        Exception: MLflow's, where it is for another reason than what is sent.
    """
    if not items:
        return
    try:
        send(items)
    except Exception as error:
        if not is_refusal(error):
            raise
        if len(items) == 1:
            yield items[0], reason_of(error)
            return
        middle = len(items) // 2
        for half in (items[:middle], items[middle:]):
            yield from send_all(send, half)


def check_present(experiment: Any, uri: str) -> None:
    """Refuse an experiment that is deleted.

    Raises:
        DeletedError: with the ways out.
    """
    if experiment.lifecycle_stage == DELETED:
        restore = _command(uri, f"experiments restore --experiment-id {experiment.experiment_id}")
        raise DeletedError(
            f"MLflow's experiment {experiment.name!r} is deleted: {restore} brings it back, another "
            "tracking.experiment in config.yaml takes its place"
        )


def deleted_run(run_id: str, uri: str) -> DeletedError:
    """The error for a run that is deleted, its experiment not."""
    restore = _command(uri, f"runs restore --run-id {run_id}")
    return DeletedError(
        f"MLflow's run {run_id} is deleted: {restore} brings it back; without mlflow.json in the run's "
        "folder, everything is sent to a new one"
    )


def _command(uri: str, words: str) -> str:
    """What to type, without the password that a server's address may hold."""
    return f"`MLFLOW_TRACKING_URI={without_secrets(uri)} mlflow {words}`"
