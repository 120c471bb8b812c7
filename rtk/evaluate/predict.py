"""Model + images -> predictions Parquet, through Ray Data; every column is written once a checkpoint."""

from __future__ import annotations

import json
import os
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch

from rtk.config.schema import EvaluateConfig
from rtk.console import Progress
from rtk.data.dataset import content_hash
from rtk.data.pipeline import Source, decode_block, encoded_blocks
from rtk.evaluate.actors import Predictor, as_lists, as_matrix
from rtk.models import Classifier, build_model
from rtk.run_folder import RunFolder
from rtk.scores import SCORES
from rtk.train.checkpoint import load_weights, read_state

METADATA_KEY = b"rtk"
MATRICES = ("logits", "features")
# Scores are fitted on it, but never computed for it.
FIT_SET = "train"


def load_model(run: RunFolder, checkpoint: str = "best") -> Classifier:
    """The classifier of a run in evaluation mode: averaged weights where the run kept an average.

    Raises:
        CheckpointError: where the run has no such checkpoint.
    """
    folder = run.checkpoints / checkpoint
    config = run.config()
    model = build_model(config.model, read_state(folder)["num_classes"], config.data.image_size)
    load_weights(folder, model)
    if config.train.channels_last:
        model.memory_format = torch.channels_last
    return model.eval()


def predict_datasets(
    run: RunFolder,
    sources: Mapping[str, Source],
    checkpoint: str = "best",
    settings: EvaluateConfig | None = None,
    progress: Progress | None = None,
    scores: tuple[str, ...] = (),
) -> dict[str, Path]:
    """Predict and score what has not been yet, by a pool of actors; a lost actor's blocks are done again.

    Every file is written as soon as its last row is there. A batch is `evaluate.batch_size` consecutive rows
    of one data set, whatever the number of actors, so that results do not depend on it.

    Args:
        run: a trained run.
        sources: data sets by name; `train` gets no scores. Gram is fitted on `train` and `validation`.
        checkpoint: `best` or `last`.
        settings: batch size and size of the pool; None: the run's own.
        progress: called with the number of images done and their total.
        scores: names of image scores, which become columns.

    Returns:
        For each name the file `evaluation/predictions/NAME.parquet`, with columns `sample_id`, `label`,
        `prediction`, `logits`, `features` and image scores, rows in the order of the data set.
    """
    folder = run.evaluation / "predictions"
    folder.mkdir(parents=True, exist_ok=True)
    step = read_state(run.checkpoints / checkpoint)["step"]
    made_by = {"checkpoint": checkpoint, "step": step, "precision": run.config().train.precision}
    stamps = {name: _stamp(source) | made_by for name, source in sources.items()}
    files = {name: PredictionsFile(folder / f"{name}.parquet", stamps[name]) for name in sources}
    pool = Pool(run, checkpoint, settings or run.config().evaluate)
    gram_file = ""
    if "gram" in scores:
        from rtk.evaluate.gram import fit_gram_file

        gram_file, fitted_on = fit_gram_file(pool, sources, stamps, folder)
    score_stamps = {name: {"hyperparameters": SCORES[name].score_defaults} for name in scores}
    if gram_file:
        score_stamps["gram"] |= {"fitted_on": fitted_on}
    # Data sets that lack the same columns share a pass: starting one takes seconds.
    passes: dict[tuple[bool, tuple[str, ...]], list[str]] = defaultdict(list)
    for name, file in files.items():
        lacking = file.lacking({} if name == FIT_SET else score_stamps)
        if any(lacking):
            passes[lacking].append(name)
    done = Counted(progress, sum(len(sources[name]) for names in passes.values() for name in names))
    for (outputs, missing), names in passes.items():
        part = {name: sources[name] for name in names}
        for name, columns in collect(
            pool.run_blocks(part, Predictor, outputs, missing, gram_file), part, done
        ):
            added = {score: score_stamps[score] for score in missing}
            files[name].write(part[name], columns, added)
    return {name: file.path for name, file in files.items()}


def read_predictions(path: Path) -> dict[str, np.ndarray]:
    """Columns of a file: `logits` (N, C), `features` (N, D) and image scores (N,) float32, the rest int64."""
    table = pq.read_table(path)
    return {
        name: as_matrix(table[name], len(table)) if name in MATRICES else table[name].to_numpy()
        for name in table.column_names
    }


@dataclass
class Counted:
    """Counts images over several passes for one progress bar."""

    progress: Progress | None
    total: int
    done: int = 0

    def add(self, images: int) -> None:
        """So many more are done."""
        self.done += images
        if self.progress is not None:
            self.progress(self.done, self.total)


@dataclass(frozen=True)
class Pool:
    """How actors with the model of a run are set up."""

    run: RunFolder
    checkpoint: str
    settings: EvaluateConfig

    def run_blocks(
        self, sources: Mapping[str, Source], actor: Callable[..., Any], *args: Any
    ) -> Iterator[pa.Table]:
        """What actors make of the decoded blocks of data sets, in any order.

        Args:
            sources: data sets by name.
            actor: class of actor, called with what `ModelActor` takes, then `args`.
            args: see `actor`.

        Raises:
            Exception: what an actor raised, such as a `BadImageError`.
        """
        import ray

        gpus = int(ray.cluster_resources().get("GPU", 0))
        size = self.settings.actors or max(1, gpus)
        threads = max(1, (os.cpu_count() or 1) // size)
        base = (str(self.run.path), self.checkpoint, threads, self.run.config().train.precision)
        batch = self.settings.batch_size
        blocks = [block for name, source in sources.items() for block in encoded_blocks(name, source, batch)]
        results = (
            ray.data.from_arrow(blocks)
            .map_batches(decode_block, batch_size=None, batch_format="pyarrow", zero_copy_batch=True)
            .map_batches(
                actor,
                fn_constructor_args=(*base, *args),
                batch_size=None,
                batch_format="pyarrow",
                compute=ray.data.ActorPoolStrategy(size=size),
                num_gpus=1 if gpus else 0,
            )
        )
        results.context.raise_original_map_exception = True
        try:
            yield from results.iter_batches(batch_size=None, batch_format="pyarrow")
        except ray.exceptions.RayTaskError as error:
            raise error.cause from error


def collect(
    blocks: Iterator[pa.Table], sources: Mapping[str, Source], done: Counted | None = None
) -> Iterator[tuple[str, dict[str, np.ndarray]]]:
    """Data sets, each as soon as it is complete: its name and its columns, rows where their numbers say."""
    outputs: dict[str, dict[str, np.ndarray]] = {name: {} for name in sources}
    left = {name: len(source) for name, source in sources.items()}
    for block in blocks:
        name, rows = block["set"][0].as_py(), block["row"].to_numpy()
        for column in block.column_names[2:]:
            values = block[column]
            found = as_matrix(values, len(rows)) if pa.types.is_nested(values.type) else values.to_numpy()
            shape = (len(sources[name]), *found.shape[1:])
            outputs[name].setdefault(column, np.empty(shape, found.dtype))[rows] = found
        left[name] -= len(rows)
        if done is not None:
            done.add(len(rows))
        if left[name] == 0:
            yield name, outputs.pop(name)


@dataclass(frozen=True)
class PredictionsFile:
    """A Parquet file of predictions; its metadata say what each column was made from.

    Attributes:
        path: of the file, which may not be there yet.
        stamp: what `logits` and `features` must have been made from.
    """

    path: Path
    stamp: dict[str, Any]

    def lacking(self, scores: Mapping[str, Any]) -> tuple[bool, tuple[str, ...]]:
        """Whether the predictions are missing, and which of the scores (with their stamps) are."""
        stored = read_stamp(self.path)
        if stored.get("predictions") != self.stamp:
            return True, tuple(scores)
        return False, tuple(name for name, stamp in scores.items() if stored["scores"].get(name) != stamp)

    def write(self, source: Source, columns: dict[str, np.ndarray], scores: Mapping[str, Any]) -> None:
        """Write predictions, or add scores to those that are there; a reader never sees half a file."""
        stored: dict[str, Any] = {"predictions": self.stamp, "scores": {}}
        if "logits" in columns:
            matrices = {name: as_lists(torch.from_numpy(columns[name])) for name in MATRICES}
            known = {
                "sample_id": source.sample_ids(),
                "label": source.labels(),
                "prediction": columns["logits"].argmax(1),
            }
            table = pa.table({**known, **matrices})
        else:
            stored = read_stamp(self.path)
            table = pq.read_table(self.path)
        for name in scores:
            kept = [column for column in table.column_names if column != name]
            table = table.select(kept).append_column(name, pa.array(columns[name]))
        stored["scores"] |= scores
        partial = self.path.with_suffix(".partial")
        metadata = {METADATA_KEY: json.dumps(stored).encode()}
        pq.write_table(table.replace_schema_metadata(metadata), partial, compression="zstd")
        partial.replace(self.path)


def read_stamp(path: Path) -> dict[str, Any]:
    """What the columns of a predictions file were made from; empty where there is none."""
    if not path.exists():
        return {}
    stamp: dict[str, Any] = json.loads((pq.read_schema(path).metadata or {}).get(METADATA_KEY, b"{}"))
    return stamp


def _stamp(source: Source) -> dict[str, Any]:
    """What predictions depend on beside the model: they are made anew when any of it changes."""
    data = {"data": content_hash(source.dataset), "rows": len(source), "size": source.size}
    return data | {"crop_share": source.crop_share, "interpolation": source.interpolation}
