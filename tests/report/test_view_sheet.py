import json

import numpy as np
import pytest
from PIL import Image

from rtk.cli import main
from rtk.config import load_config
from rtk.report.view_sheet import view_sheet


@pytest.fixture
def config(tmp_path, monkeypatch):
    monkeypatch.setenv("RTK_CACHE", str(tmp_path))
    return lambda *overrides: load_config("digits_demo", overrides)


def test_a_row_a_view_and_a_column_an_image(config):
    sheet = view_sheet(config(), 4)
    assert sheet.size == (80 + 4 * 100, 5 * 100)
    cells = np.asarray(sheet)[:, 80:].reshape(5, 100, 4, 100, 3)
    assert (cells.std((1, 3, 4)) > 0).all()
    for row in range(1, 5):
        assert (cells[row] != cells[0]).any()


def test_openmix_has_a_row_where_there_are_outliers(config):
    sheet = view_sheet(config("data.outliers=builtin:digits/far_photos.parquet"), 2)
    assert sheet.size == (80 + 2 * 100, 6 * 100)


def test_a_missing_set_is_named(config):
    with pytest.raises(ValueError, match="data.train: .*nowhere.parquet"):
        view_sheet(config("data.train=nowhere.parquet"))


def test_command(config, tmp_path, capsys):
    out = tmp_path / "sheet.png"
    assert main(["data", "views", "digits_demo", "--out", str(out), "--images", "3", "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == {"views": str(out)}
    assert Image.open(out).size == (80 + 3 * 100, 5 * 100)


def test_a_file_that_cannot_be_written_is_named(config, tmp_path, capsys):
    assert main(["data", "views", "digits_demo", "--out", str(tmp_path / "no" / "sheet.png")]) == 2
    assert "--out: cannot write" in capsys.readouterr().err
