"""Labels that look wrong to a trained run."""

from __future__ import annotations

import shutil
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from rtk.data.sets.builtin import resolve_path
from rtk.data.sets.dataset import open_dataset
from rtk.evaluate.label_check import check_labels_with
from rtk.evaluate.predictions_file import read_predictions
from rtk.metrics.label_errors import label_errors

pytestmark = pytest.mark.slow


def test_labels_are_checked_by_predictions_made_for_it(run, tmp_path):
    path = Path(resolve_path("builtin:digits/test.parquet"))
    table = pq.read_table(path)
    labels = table["label"].to_numpy().copy()
    labels[::10] = (labels[::10] + 1) % 8
    changed = table.set_column(table.column_names.index("label"), "label", pa.array(labels))
    pq.write_table(changed, tmp_path / "changed.parquet")
    shutil.copy(path.parent / "classes.json", tmp_path)
    train = open_dataset(resolve_path("builtin:digits/train.parquet"))
    last = len(labels) - 1
    sets = {"changed": open_dataset(tmp_path / "changed.parquet"), "train": train}
    found = check_labels_with(run, sets, {"changed": (last,)})
    logits = read_predictions(run.evaluation / "predictions" / "test.parquet")["logits"][:last]
    expected = label_errors(torch.tensor(logits).double().softmax(1).numpy(), labels[:last])
    assert len(expected.rows) > 10
    assert set(found["changed"].rows) == set(expected.rows)
    assert (found["changed"].images, found["changed"].trained_on) == (last, 0)
    assert (found["train"].images, found["train"].trained_on) == (train.rows, 256)
    assert len(list((run.evaluation / "predictions").glob("checked-*.parquet"))) == 2
