"""Model + images -> predictions Parquet, through Ray Data; written once a data set and checkpoint."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch

from rtk.console import Progress
from rtk.data.augment import to_float
from rtk.data.dataset import content_hash, labels
from rtk.data.decode import BadImageError
from rtk.data.pipeline import Source, decode_block, encoded_blocks, sample_ids
from rtk.environment import supports_bf16
from rtk.models import Classifier, build_model
from rtk.run_folder import RunFolder
from rtk.train.checkpoint import load_weights, read_state

METADATA_KEY = b"rtk"


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
    actors: int | None = None,
    progress: Progress | None = None,
) -> dict[str, Path]:
    """Predict every data set that has not been predicted yet, in one pass over a pool of actors.

    Args:
        run: a trained run.
        sources: data sets by name.
        checkpoint: `best` or `last`.
        actors: size of the pool; None: one for each GPU, or one on a machine without.
        progress: called with the number of images done and their total.

    Returns:
        For each name the file `evaluation/predictions/NAME.parquet`, with columns `sample_id`, `label`,
        `prediction`, `logits` and `features`, rows in the order of the data set.
    """
    folder = run.evaluation / "predictions"
    folder.mkdir(parents=True, exist_ok=True)
    paths = {name: folder / f"{name}.parquet" for name in sources}
    step = read_state(run.checkpoints / checkpoint)["step"]
    stamps = {name: _stamp(source, checkpoint, step) for name, source in sources.items()}
    missing = {name: source for name, source in sources.items() if _read_stamp(paths[name]) != stamps[name]}
    if missing:
        outputs = _run_model(run, missing, checkpoint, actors, progress)
        for name, source in missing.items():
            _write(paths[name], source, outputs[name], stamps[name])
    return paths


def read_predictions(path: Path) -> dict[str, np.ndarray]:
    """Columns of a predictions file: `logits` (N, C) and `features` (N, D) float32, the rest int64 (N,)."""
    table = pq.read_table(path)
    columns = {name: table[name].to_numpy() for name in ("sample_id", "label", "prediction")}
    for name in ("logits", "features"):
        flat = table[name].combine_chunks().flatten().to_numpy()
        columns[name] = flat.reshape(len(table), -1)
    return columns


class Predictor:
    """Actor that holds the model and predicts decoded blocks."""

    def __init__(self, run_path: str, checkpoint: str, threads: int, precision: str) -> None:
        torch.set_num_threads(threads)
        self.device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        self.model = load_model(RunFolder(Path(run_path)), checkpoint).to(self.device)
        if precision != "fp32" and supports_bf16(self.device.type):
            self.model.autocast_dtype = torch.bfloat16

    def __call__(self, block: pa.Table) -> pa.Table:
        """Decoded block to `set`, `row`, `logits`, `features`."""
        _raise_bad_image(block)
        side = block["size"][0].as_py()
        pixels = np.frombuffer(b"".join(block["pixels"].to_pylist()), np.uint8).reshape(-1, 3, side, side)
        with torch.no_grad():
            images = to_float(torch.from_numpy(pixels.copy()).to(self.device))
            logits, features = self.model.forward_features(images)
        outputs = {"logits": _lists(logits), "features": _lists(features)}
        return pa.table({"set": block["set"], "row": block["row"], **outputs})


def _run_model(
    run: RunFolder,
    sources: Mapping[str, Source],
    checkpoint: str,
    actors: int | None,
    progress: Progress | None,
) -> dict[str, dict[str, np.ndarray]]:
    """Logits and features of every data set, each row where its row number says."""
    import ray

    config = run.config()
    gpus = int(ray.cluster_resources().get("GPU", 0))
    pool = actors or max(1, gpus)
    threads = max(1, (os.cpu_count() or 1) // pool)
    outputs: dict[str, dict[str, np.ndarray]] = {name: {} for name in sources}
    # Images of different sizes cannot share a batch: sources of one run all have the model's size.
    blocks = [block for name, source in sources.items() for block in encoded_blocks(name, source)]
    predicted = (
        ray.data.from_arrow(blocks)
        .map_batches(decode_block, batch_format="pyarrow", zero_copy_batch=True)
        .map_batches(
            Predictor,
            fn_constructor_args=(str(run.path), checkpoint, threads, config.train.precision),
            batch_size=config.evaluate.batch_size,
            batch_format="pyarrow",
            compute=ray.data.ActorPoolStrategy(size=pool),
            num_gpus=1 if gpus else 0,
        )
    )
    done, total = 0, sum(len(source) for source in sources.values())
    for block in predicted.iter_batches(batch_size=None, batch_format="pyarrow"):
        _place(block, sources, outputs)
        done += len(block)
        if progress is not None:
            progress(done, total)
    return outputs


def _place(block: pa.Table, sources: Mapping[str, Source], outputs: dict[str, dict[str, np.ndarray]]) -> None:
    names, rows = np.array(block["set"].to_pylist()), block["row"].to_numpy()
    for column in ("logits", "features"):
        values = block[column].combine_chunks().flatten().to_numpy().reshape(len(rows), -1)
        for name in np.unique(names):
            chosen = names == name
            target = outputs[name].setdefault(
                column, np.empty((len(sources[name]), values.shape[1]), np.float32)
            )
            target[rows[chosen]] = values[chosen]


def _raise_bad_image(block: pa.Table) -> None:
    for name, row, reason in zip(*(block[c].to_pylist() for c in ("set", "row", "reason")), strict=True):
        if reason is not None:
            raise BadImageError(f"data set {name!r}, row {row}: {reason}")


def _lists(values: torch.Tensor) -> pa.Array:
    flat = pa.array(values.float().cpu().numpy().reshape(-1))
    return pa.FixedSizeListArray.from_arrays(flat, values.shape[1])


def _write(path: Path, source: Source, outputs: dict[str, np.ndarray], stamp: dict[str, Any]) -> None:
    columns = {
        "sample_id": sample_ids(source),
        "label": labels(source.dataset)[: len(source)],
        "prediction": outputs["logits"].argmax(1),
        "logits": _lists(torch.from_numpy(outputs["logits"])),
        "features": _lists(torch.from_numpy(outputs["features"])),
    }
    table = pa.table(columns).replace_schema_metadata({METADATA_KEY: json.dumps(stamp).encode()})
    partial = path.with_suffix(".partial")
    pq.write_table(table, partial, compression="zstd")
    partial.replace(path)


def _stamp(source: Source, checkpoint: str, step: int) -> dict[str, Any]:
    """What predictions depend on: they are made anew when any of it changes."""
    data = {"data": content_hash(source.dataset), "rows": len(source), "size": source.size}
    data |= {"crop_share": source.crop_share, "interpolation": source.interpolation}
    return {**data, "checkpoint": checkpoint, "step": step}


def _read_stamp(path: Path) -> dict[str, Any] | None:
    if not path.exists():
        return None
    metadata = pq.read_schema(path).metadata or {}
    stamp: dict[str, Any] | None = json.loads(metadata.get(METADATA_KEY, b"null"))
    return stamp
