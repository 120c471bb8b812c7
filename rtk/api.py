"""rtk from Python: what the commands do, as functions whose results a notebook shows.

```python
import rtk

run = rtk.train("digits_demo", {"train.duration": "3ep"})
evaluation = run.evaluate(risk=0.02)
evaluation.table  # a pandas.DataFrame
model = run.export()
model("photo.jpg")  # label, confidence, decision
```
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from rtk.report.notebook import ComparedRuns, Evaluation

if TYPE_CHECKING:
    import pandas as pd

    from rtk.deploy.loaded_model import LoadedModel
    from rtk.runs.folder import RunFolder

Place = str | Path
Overrides = Mapping[str, Any] | Sequence[str]


@dataclass(frozen=True)
class TrainedRun:
    """A run and what can be done with it.

    Attributes:
        path: its folder.
        status: `finished`, or `interrupted` (then `resume` goes on with it).
        summary: its last validation metrics, as fractions.
    """

    path: Path
    status: str
    summary: dict[str, float]

    @property
    def metrics(self) -> pd.DataFrame:
        """All metrics along the run: columns `step`, `epoch`, `time` (seconds since 1970), `key`, `value`."""
        import pandas as pd

        from rtk.runs.metrics_file import COLUMNS as RECORDED

        return pd.DataFrame(self._folder().read_metrics(), columns=list(RECORDED))

    def resume(self, overrides: Overrides = ()) -> TrainedRun:
        """Go on from the last checkpoint, as `rtk train --resume`; see `train`."""
        from rtk.train.launch import resume_training

        return _trained(resume_training(self._folder(), _as_overrides(overrides)))

    def evaluate(self, **options: Any) -> Evaluation:
        """Measure it: see `rtk.api.evaluate`."""
        return evaluate(self, **options)

    def export(self, checkpoint: str = "best", overrides: Overrides = ()) -> LoadedModel:
        """Package it with its decision rule (`evaluate(risk=...)` makes that) in `path/export`.

        Args:
            checkpoint: `best` or `last`.
            overrides: where images are now, `{"data.train": PATH}`; only runs of older versions need them.

        Raises:
            ConfigError: there is no decision rule, or it belongs to another checkpoint or evaluation.
        """
        from rtk.deploy.export import export_run
        from rtk.tracking.uploading import send_rest

        exported = export_run(self._folder(), checkpoint, _as_overrides(overrides))
        send_rest(self.path)
        return load_model(exported)

    def _folder(self) -> RunFolder:
        from rtk.runs.folder import RunFolder

        return RunFolder.open(self.path)

    def _repr_html_(self) -> str:
        rows = "".join(f"<tr><td>{key}</td><td>{value:.4f}</td></tr>" for key, value in self.summary.items())
        return f"<p>{self.status}: <code>{self.path}</code></p><table>{rows}</table>"


def train(
    recipe: Place, overrides: Overrides = (), output: Place | None = None, name: str | None = None
) -> TrainedRun:
    """Train a recipe, as `rtk train`.

    Args:
        recipe: name of a shipped recipe (`rtk recipes ls`), or a YAML file.
        overrides: values over the recipe's: `{"train.duration": "3ep"}`, or `["train.duration=3ep"]`.
        output: folder of the runs; None: the recipe's.
        name: of the run and its folder; None: made of the recipe's and the time.

    Raises:
        ConfigError: naming the key, what was got and what was wanted; nothing has been started then.
        TrainingError: the run failed.
    """
    from rtk.config.load import load_config
    from rtk.train.launch import launch_training

    given = _as_overrides(overrides) + ([] if output is None else _as_overrides({"output": str(output)}))
    return _trained(launch_training(load_config(recipe, given), name))


def evaluate(
    run: TrainedRun | Place,
    overrides: Overrides = (),
    *,
    scores: Sequence[str] | None = None,
    suite: str | None = None,
    ood: Mapping[str, Place] | None = None,
    risk: float | None = None,
    confidence: float | None = None,
    plugins: Sequence[Place] = (),
    checkpoint: str = "best",
    output: Place = "runs",
) -> Evaluation:
    """Measure a run, as `rtk evaluate`: predictions, scores, metrics for every OOD set; write `evaluation/`.

    Args:
        run: what `train` returned, a run's folder, or its name under `output`.
        overrides: of `evaluate.*` and of the sets that are tested and tuned on.
        scores: scores to compare (`rtk.scores.SCORES`); None: the recipe's.
        suite: name of a shipped suite of OOD sets, or a YAML file; replaces the recipe's sets.
        ood: OOD test sets, `{"far:xrays": "data/xrays"}`; `near:` or `far:` may be left out for a set that a
            shipped suite has.
        risk: choose thresholds for this share of wrong images among the accepted.
        confidence: hold the risk on images to come with this probability (`evaluate.guarantee`).
        plugins: Python files that register scores; the run keeps a copy.
        checkpoint: `best` or `last`.
        output: folder where a run's name is looked for.

    Raises:
        ConfigError: a set, a score or the checkpoint is missing, or an override would need another training.
    """
    from rtk.evaluate.evaluate import evaluate_run
    from rtk.evaluate.sets import evaluation_config
    from rtk.evaluate.suites import parse_ood
    from rtk.report.run_page import write_report
    from rtk.report.run_tables import write_run_tables
    from rtk.runs.folder import RunFolder
    from rtk.tracking.sending import send_evaluation
    from rtk.tracking.uploading import send_rest

    folder = RunFolder.open(run.path if isinstance(run, TrainedRun) else run, str(output))
    folder.add_plugins([str(path) for path in plugins])
    options = {
        "evaluate.scores": scores,
        "evaluate.risk": risk,
        "evaluate.guarantee.confidence": confidence,
    }
    given = _as_overrides({key: value for key, value in options.items() if value is not None})
    sets = [parse_ood(f"{name}={path}") for name, path in (ood or {}).items()]
    config = evaluation_config(folder, given + _as_overrides(overrides), suite, sets)
    result = evaluate_run(folder, config, checkpoint)
    write_run_tables(folder)
    report = write_report([folder])
    send_evaluation(folder)
    send_rest(folder.path)
    return Evaluation(folder.path, result, _measured(folder.name, result), report)


def ensemble(
    runs: Sequence[TrainedRun | Place],
    average: Literal["softmax", "logits"] = "softmax",
    *,
    name: str | None = None,
    output: Place = "runs",
) -> TrainedRun:
    """Join runs to one network, as `rtk evaluate --ensemble`: a run of its own, to be evaluated and exported.

    Args:
        runs: what `train` returned, run folders or names; the name of a `--seeds` group stands for its runs.
        average: what is averaged over them.
        name: of the new run; None: made of its members, so that the same ones give the same run.
        output: folder where names of runs are looked for.

    Raises:
        ConfigError: fewer than two, or of other classes, images or test sets.
    """
    from rtk.evaluate.ensemble import check_same_sets, chosen_members, open_ensemble
    from rtk.runs.seeds import open_runs

    places = [str(run.path if isinstance(run, TrainedRun) else run) for run in runs]
    chosen = chosen_members(open_runs(places, str(output)), "best", snapshots=False)
    check_same_sets(chosen, [one.run.config() for one in chosen])
    return TrainedRun(open_ensemble(chosen, average, name).path, "finished", {})


def compare(
    runs: Sequence[TrainedRun | Place] = (),
    *,
    sweep: str | None = None,
    experiment: str | None = None,
    where: str | None = None,
    metrics: Sequence[str] = (),
    sort: str | None = None,
    output: Place = "runs",
    force: bool = False,
) -> ComparedRuns:
    """Set runs, a sweep's trials or an experiment side by side, as `rtk compare`; exactly one of the three.

    Args:
        runs: what `train` returned, run folders or names; those of the baseline first.
        sweep: name or folder of a sweep.
        experiment: value of `tracking.experiment`.
        where: conditions such as `params.model.width = 8 and metrics.accuracy > 0.9`.
        metrics: columns; none: a handful.
        sort: metric to sort by; None: the sweep's objective, DS-AURC or accuracy.
        output: folder of runs and sweeps.
        force: rank also runs that were not measured on the same.

    Raises:
        ConfigError: naming what was got and what was wanted.
    """
    import pandas as pd

    from rtk.report import comparison, comparison_table
    from rtk.report.differences import difference_records

    places = [str(run.path if isinstance(run, TrainedRun) else run) for run in runs]
    found = comparison.compare(places, sweep, experiment, where, metrics, sort, str(output), force)
    headings, *rows = comparison_table.rows(found.groups, found.metrics)
    records = comparison_table.as_records(found.groups)
    differences = difference_records(found.differences)
    return ComparedRuns(
        pd.DataFrame(rows, columns=headings),
        pd.json_normalize(records),
        pd.DataFrame(differences),
        tuple(found.unlike),
    )


def load_model(place: Place, output: Place = "runs", plugins: Sequence[Place] = ()) -> LoadedModel:
    """Load a model to call on images (`LoadedModel`): `rtk.load_model("runs/flowers")("photo.jpg")`.

    Args:
        place: a run that was evaluated with a risk, or its name under `output` (what was exported of it, else
            its best checkpoint), the folder that `rtk export` wrote, or an MLflow URI (`models:/flowers/1`).
        output: folder of runs, and of the `mlflow.db` that is read where MLFLOW_TRACKING_URI is not set.
        plugins: Python files that the model was exported with.

    Raises:
        ConfigError: there is no such model, or the run has no decision rule yet.
    """
    from rtk.deploy.loaded_model import LoadedModel
    from rtk.deploy.predict import open_model

    return LoadedModel(open_model(str(place), str(output), [str(path) for path in plugins]))


def _trained(outcome: Any) -> TrainedRun:
    return TrainedRun(outcome.run.path, outcome.status, outcome.metrics)


def _measured(name: str, result: Mapping[str, Any]) -> pd.DataFrame:
    import pandas as pd

    from rtk.report.tables import pooled_rows

    return pd.DataFrame([row.plain() for row in pooled_rows({name: result})])


def _as_overrides(given: Overrides) -> list[str]:
    """Overrides as the command line takes them."""
    if isinstance(given, Mapping):
        # Not escaped: YAML knows no pairs of surrogates, as JSON writes emoji.
        return [f"{key}={json.dumps(value, ensure_ascii=False)}" for key, value in given.items()]
    return list(given)
