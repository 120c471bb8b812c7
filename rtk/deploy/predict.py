"""`rtk predict`: find the model, find the images, predict them batch by batch."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from rtk.config.errors import ConfigError
from rtk.config.secrets import without_secrets
from rtk.data.image import BadImageError
from rtk.data.image_files import read_image_file, read_tree
from rtk.data.sets.columns import image_bytes, image_column
from rtk.data.sets.storage import blamed_on_file, locate
from rtk.deploy.description import DESCRIPTION
from rtk.deploy.packaged_model import BATCH, PackagedModel, failed_row
from rtk.runs.bounded_parquet import open_bounded
from rtk.runs.folder import RunFolder
from rtk.runs.names import find_folder
from rtk.runs.object_store import SCHEMES
from rtk.runs.working_copy import bring, local_folder
from rtk.runtime.console import Progress
from rtk.tracking.names import sqlite_uri

Encoded = bytes | BadImageError
ON_STORAGE = tuple(f"{scheme}://" for scheme in SCHEMES)


def open_model(
    place: str, output: str = "runs", plugins: Sequence[str] = (), device: str | None = None
) -> PackagedModel:
    """The model of a run or of a folder that `rtk export` wrote, by path or URI, or of an MLflow URI.

    Args:
        place: see above. Of a run that has been exported it is what was exported; else its best checkpoint
            with the decision rule of its last evaluation.
        output: folder of runs, and of the `mlflow.db` that is read where MLFLOW_TRACKING_URI is not set.
        plugins: files of the user's that the model needs.
        device: None: a GPU where there is one.

    Raises:
        ConfigError: where there is none, or no such device.
    """
    if ":/" in place and not place.startswith(ON_STORAGE):
        roots = [_download(place, output)]
    else:
        run = find_folder(place, output, "config.yaml")  # `last`, too
        roots = [bring(place), local_folder(output) / place, *([run] if run is not None else [])]
    for root in roots:
        # In an MLflow model the folder lies in `data/`.
        for folder in (root, root / "export", *sorted(root.glob("data/*"))):
            if (folder / DESCRIPTION).is_file():
                packaged = PackagedModel.load(folder, device, plugins)
                if folder == root / "export":
                    _refuse_outdated(root, packaged)
                return packaged
        if (root / "config.yaml").is_file():
            return _of_run(root, device)
    raise ConfigError(f"model: got {place!r}, wanted a run, what rtk export wrote, or models:/NAME/VERSION")


def _refuse_outdated(folder: Path, packaged: PackagedModel) -> None:
    """Refuse what was exported before the run's last evaluation, which has other thresholds, or none.

    Raises:
        ConfigError: naming both; the folder `export` itself is taken as it is.
    """
    run = RunFolder(folder)
    result = run.read_json("evaluation/metrics.json")
    if result is None:
        return
    rule, decided = packaged.rule, result.get("decision", {})
    exported = (result.get("step", rule.step), rule.tau_id, rule.tau_ood)
    measured = (rule.step, decided.get("tau_id"), decided.get("tau_ood"))
    if exported != measured:
        now = "has no decision rule" if decided.get("tau_id") is None else "has other thresholds"
        raise ConfigError(
            f"{folder / 'export'}: exported at step {rule.step}, but the last evaluation of the run {now}; "
            f"rtk export {folder} makes it anew; {folder / 'export'} itself is taken as it is"
        )


def _of_run(folder: Path, device: str | None) -> PackagedModel:
    from rtk.deploy.export import package_run  # which imports what trains and evaluates

    return package_run(RunFolder.open(folder)).placed(device)


def _download(uri: str, output: str) -> Path:
    import mlflow

    database = Path(output).absolute() / "mlflow.db"
    if "MLFLOW_TRACKING_URI" not in os.environ and database.exists():
        mlflow.set_tracking_uri(sqlite_uri(database))
    try:
        return Path(mlflow.artifacts.download_artifacts(uri))
    except mlflow.exceptions.MlflowException as error:
        raise ConfigError(
            f"model: got {uri!r}, which {without_secrets(mlflow.get_tracking_uri())} does not have "
            f"({without_secrets(error.message)}); MLFLOW_TRACKING_URI names another server"
        ) from None


def find_images(paths: Iterable[str]) -> list[Path]:
    """Files to predict: those named, and all image and Parquet files below the folders named, in order.

    What counts as an image, as hidden, and as a link to follow is as in `rtk data prepare`.

    Raises:
        ConfigError: where a path does not exist, a folder has no images, or a Parquet file no images.
    """
    found: list[Path] = []
    for path in map(Path, paths):
        if not path.exists():
            raise ConfigError(f"images: {path} does not exist")
        inside = [path] if path.is_file() else _files_below(path)
        if not inside:
            raise ConfigError(f"images: no image files below {path}")
        found += inside
    for file in filter(_is_parquet, found):
        _check_parquet(file)
    return found


def _files_below(folder: Path) -> list[Path]:
    try:
        tree = read_tree(folder)
    except ValueError as error:
        raise ConfigError(f"images: {error}") from None
    return sorted([*tree.all_images(), *filter(_is_parquet, tree.all_others())])


def _check_parquet(file: Path) -> None:
    try:
        image_column(pq.read_schema(_place(file)))
    except pa.ArrowInvalid as error:
        raise ConfigError(f"images: {file} is no Parquet file ({error})") from None
    except ValueError as error:
        raise ConfigError(f"images: {file} {error}") from None


def predict_files(
    model: PackagedModel, files: list[Path], progress: Progress | None = None
) -> Iterator[dict[str, Any]]:
    """A row for each image: `image`, its file (for Parquet `FILE:ROW`), what `PackagedModel.predict` says.

    Args:
        model: packaged model.
        files: of `find_images`.
        progress: called with the number of images done and their total.
    """
    total = count_images(files)
    for done, row in enumerate(predict_named(model, encoded_images(files)), 1):
        yield row
        if progress is not None and (done % BATCH == 0 or done == total):
            progress(done, total)


def predict_named(model: PackagedModel, images: Iterable[tuple[Any, Encoded]]) -> Iterator[dict[str, Any]]:
    """A row for each image: `image`, its name, and what `PackagedModel.predict` says; a batch at a time.

    Args:
        model: packaged model.
        images: names, each with encoded bytes, or with the error that there are none.
    """
    images = iter(images)
    while batch := list(islice(images, BATCH)):
        predicted = iter(model.predict(data for _, data in batch if isinstance(data, bytes)))
        for name, data in batch:
            row = next(predicted) if isinstance(data, bytes) else failed_row(data)
            yield {"image": name, **row}


def count_images(files: list[Path]) -> int:
    """Number of images in files of `find_images`."""
    return sum(pq.ParquetFile(_place(f)).metadata.num_rows if _is_parquet(f) else 1 for f in files)


def encoded_images(files: list[Path]) -> Iterator[tuple[str, Encoded]]:
    """Name and encoded bytes of every image in files of `find_images`, or why it cannot be read."""
    for file in files:
        if _is_parquet(file):
            yield from _encoded_rows(file)
            continue
        try:
            yield str(file), read_image_file(file)
        except OSError as error:
            yield str(file), BadImageError(error.strerror or str(error))


def _encoded_rows(file: Path) -> Iterator[tuple[str, bytes]]:
    row = 0
    with blamed_on_file(file), open_bounded(_place(file)) as parquet:
        for batch in parquet.batches(BATCH, [image_column(parquet.schema)]):
            for value in batch.column(0).to_pylist():
                yield f"{file}:{row}", image_bytes(value)[0]
                row += 1


def _place(file: Path) -> str:
    return locate(str(file))[1]


def _is_parquet(file: Path) -> bool:
    return file.suffix.lower() == ".parquet"
