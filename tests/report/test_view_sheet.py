import json

import numpy as np
import pytest
from PIL import Image

from rtk.cli import main
from rtk.config import load_config
from rtk.config.load import named_order
from rtk.report.view_sheet import view_sheet


@pytest.fixture
def config(tmp_path, monkeypatch):
    monkeypatch.setenv("RTK_CACHE", str(tmp_path))
    return lambda *overrides: load_config("digits_demo", overrides)


ONE_LINE, TWO_LINES = 100 + 14, 100 + 28  # of text below the tiles of a row
HEIGHT = 4 * ONE_LINE + 2 * TWO_LINES


def test_a_row_a_view_and_a_column_an_image(config):
    sheet = view_sheet(config(), 4)
    assert sheet.size == (80 + 4 * 100, HEIGHT)
    pixels = np.asarray(sheet)[:, 80:]
    tops = np.cumsum([2, ONE_LINE, TWO_LINES, ONE_LINE, TWO_LINES])  # clean, mixup, PixMix; CutMix, AugMix
    tiles = np.stack([pixels[top : top + 96].reshape(96, 4, 100, 3)[:, :, :96] for top in tops])
    texts = np.stack([pixels[top + 96 : top + 110].reshape(14, 4, 100, 3) for top in tops])
    for part in (tiles, texts):
        assert (part.std((1, 3, 4)) > 0).all()
    assert all((tiles[row] != tiles[0]).any() for row in range(1, 5))


def test_terms_of_outliers_have_rows_where_there_are_some(config):
    """OpenMix's and MixOE's name the image and its share, outlier exposure's has outliers alone."""
    sheet = view_sheet(config("data.outliers=builtin:digits/far_photos.parquet"), 4)
    assert sheet.size == (80 + 4 * 100, HEIGHT + 2 * TWO_LINES + ONE_LINE)


@pytest.fixture
def rows(config, monkeypatch):
    """Captions of a sheet and the lines below its tiles."""
    drawn = []
    monkeypatch.setattr("rtk.report.view_sheet._draw", drawn.append)

    def rows(*overrides, order=()):
        view_sheet(config(*overrides), 3, order=order)
        return {caption: row.texts for caption, row in drawn.pop().items()}

    return rows


def test_views_that_are_trained_on_come_first_as_the_recipe_has_them(rows):
    off = ["CutMix\n(off)", "AugMix\n(off)", "cropped anew\n(off)"]
    assert list(rows()) == ["clean", "mixup", "PixMix", *off]
    cut = ["objective.cutmix.weight=1", "objective.regmixup.weight=0"]
    order = ["cutmix", "regpixmix"]
    assert list(rows(*cut, order=order))[:3] == ["clean", "CutMix", "PixMix"]
    assert list(rows(*cut))[:3] == ["clean", "PixMix", "CutMix"]


def test_tiles_have_their_class_and_what_they_were_mixed_with(rows, config):
    outliers = ["data.outliers=builtin:digits/far_photos.parquet", "model.reject_class=true"]
    texts = rows(*outliers, "objective.openmix.weight=1", "objective.mixoe.weight=1")
    classes = [text for (text,) in texts["clean"]]
    assert set(classes) <= set("01234567")
    assert texts["PixMix"] == texts["clean"]
    for name in ("mixup", "OpenMix", "MixOE", "CutMix\n(off)"):
        for column, lines in enumerate(texts[name]):
            shares, partners = zip(*(line.split(" ", 1) for line in lines), strict=True)
            assert sum(map(float, shares)) == pytest.approx(1, abs=0.011)
            assert partners[0] == classes[column]
            assert set(partners[1:]) <= ({"outlier"} if name in ("OpenMix", "MixOE") else set(classes))
    assert all(len(lines) == 2 for name in ("OpenMix", "MixOE") for lines in texts[name])


def test_the_recipe_decides_the_order(tmp_path):
    recipe = tmp_path / "mine.yaml"
    recipe.write_text("base: digits_ce\nobjective:\n  cutmix: {weight: 1}\n  regpixmix: {weight: 1}\n")
    assert named_order(recipe, "objective") == ["cutmix", "regpixmix"]


def test_a_missing_set_is_named(config):
    with pytest.raises(ValueError, match="data.train: .*nowhere.parquet"):
        view_sheet(config("data.train=nowhere.parquet"))


def test_command(config, tmp_path, capsys):
    out = tmp_path / "sheet.png"
    assert main(["data", "views", "digits_demo", "--out", str(out), "--images", "3", "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == {"views": str(out)}
    assert Image.open(out).size == (80 + 3 * 100, HEIGHT)


def test_a_file_that_cannot_be_written_is_named(config, tmp_path, capsys):
    assert main(["data", "views", "digits_demo", "--out", str(tmp_path / "no" / "sheet.png")]) == 2
    assert "--out: cannot write" in capsys.readouterr().err
