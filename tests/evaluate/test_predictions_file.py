"""Predictions on disk: written and read in parts, the same as in one piece."""

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from rtk.config import ConfigError
from rtk.evaluate import predictions_file
from rtk.evaluate.predictions_file import PredictionsFile, read_predictions, read_stamp
from rtk.runtime import large_arrays

ROWS = 50


class Selected:
    """What a file asks of the images that were predicted."""

    def sample_ids(self):
        return np.arange(100, 100 + ROWS)

    def labels(self):
        return np.arange(ROWS) % 4


@pytest.fixture
def columns():
    generator = np.random.default_rng(0)
    shapes = {"logits": (ROWS, 4), "features": (ROWS, 3), "odin": (ROWS,), "rr_fast": (ROWS,)}
    return {name: generator.normal(size=shape).astype(np.float32) for name, shape in shapes.items()}


@pytest.mark.parametrize(("part", "limit"), [(8192, 2**28), (7, 2**28), (7, 1)])
def test_parts_make_no_difference(tmp_path, monkeypatch, columns, part, limit):
    monkeypatch.setattr(predictions_file, "ROWS_AT_A_TIME", part)
    monkeypatch.setattr(large_arrays, "IN_MEMORY", limit)
    file = PredictionsFile(tmp_path / "test.parquet", {"data": "abc"})
    matrices = {name: columns[name] for name in ("logits", "features")}
    file.write(Selected(), matrices | {"odin": columns["odin"]}, {"odin": {"temperature": 1}})
    file.write(Selected(), {"rr_fast": columns["rr_fast"]}, {"rr_fast": {}})
    file.write(Selected(), {"odin": columns["odin"] + 1}, {"odin": {"temperature": 2}})
    found = read_predictions(file.path)
    expected = columns | {"odin": columns["odin"] + 1, "sample_id": np.arange(100, 150)}
    expected |= {"label": np.arange(ROWS) % 4, "prediction": columns["logits"].argmax(1)}
    assert found.keys() == expected.keys()
    for name, values in expected.items():
        assert found[name].dtype == values.dtype, name
        assert (found[name] == values).all(), name
    assert read_stamp(file.path)["scores"] == {"odin": {"temperature": 2}, "rr_fast": {}}
    assert pq.ParquetFile(file.path).num_row_groups == -(-ROWS // part)


@pytest.mark.parametrize("content", [b"", b"PAR1PAR1", {"logits": [1.5]}, {"logits": [[1.0], [1.0, 2.0]]}])
def test_a_damaged_file_is_named(tmp_path, content):
    path = tmp_path / "test.parquet"
    if isinstance(content, bytes):
        path.write_bytes(content)
    else:
        pq.write_table(pa.table(content).replace_schema_metadata({"rtk": "["}), path)
    assert read_stamp(path) == {}
    with pytest.raises(ConfigError, match="test.parquet: damaged"):
        read_predictions(path)
