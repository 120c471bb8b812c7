"""Images that cannot be decoded, in an evaluation of a trained run."""

from __future__ import annotations

import re

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from rtk.cli import main
from rtk.data.sets.builtin import resolve_path
from rtk.data.sets.dataset import open_dataset
from rtk.evaluate.predictions_file import read_predictions
from tests.evaluate.conftest import copy_of

pytestmark = pytest.mark.slow


def test_images_that_cannot_be_decoded_are_left_out_where_asked(run, tmp_path, capsys):
    images = pq.read_table(resolve_path("builtin:digits/near_digits89.parquet")).slice(0, 40)
    encoded = [b"" if row in (5, 30) else data for row, data in enumerate(images["image"].to_pylist())]
    path = tmp_path / "broken" / "all.parquet"
    path.parent.mkdir()
    pq.write_table(pa.table({"image": encoded, "label": images["label"]}), path)
    copy = copy_of(run, tmp_path)
    command = ["evaluate", str(copy.path), "--ood", f"far:broken={path}"]
    assert main(command) == 2
    assert "data set 'broken', row 5: empty (0 bytes) (data.on_error=skip" in capsys.readouterr().err
    assert main([*command, "data.on_error=skip", "data.max_errors=1"]) == 2
    assert "data.max_errors: 2 images of data set 'broken'" in capsys.readouterr().err
    assert main([*command, "data.on_error=skip", "data.max_errors=2"]) == 0
    printed = capsys.readouterr().out
    assert "broken: left out 2 images" in printed
    tested = open_dataset(resolve_path("builtin:digits/test.parquet")).rows
    assert re.search(rf"^Images: test {tested:,}; .*broken 38", printed, re.MULTILINE)
    assert re.search(r"^accuracy: \d+\.\d\d% \[\d+\.\d\d%, \d+\.\d\d%\]", printed, re.MULTILINE)
    saved = read_predictions(copy.evaluation / "predictions" / "broken.parquet")
    assert (saved["sample_id"] == np.delete(np.arange(40), [5, 30])).all()
