import csv
import struct
import zlib
from io import BytesIO

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from rtk.config import load_config
from rtk.data.decode.faults import Fault, FaultLog
from rtk.data.image import BadImageError, encode_png
from rtk.train.launch import launch_training

ROWS = 400  # 1 % of them are broken


def fault(row, name="train"):
    return Fault(name, row, 100 + row, f"{row}.png", "truncated")


def test_fail_names_the_image():
    with pytest.raises(BadImageError, match=r"data set 'train', row 4 \(4.png\): truncated"):
        FaultLog("fail", 5).add(fault(4), 100)


@pytest.mark.parametrize(("limit", "allowed"), [(3, 3), (0.05, 5), (0, 0)])
def test_skip_up_to_the_limit_of_each_set(limit, allowed):
    log = FaultLog("skip", limit)
    for row in range(allowed):
        log.add(fault(row), 100)
        log.add(fault(row), 100)  # again in the next epoch
        log.add(fault(row, "validation"), 100)
    with pytest.raises(BadImageError, match=f"data.max_errors: {allowed + 1} images of data set 'train'"):
        log.add(fault(99), 100)


def test_the_list_is_continued(tmp_path):
    file = tmp_path / "skipped.csv"
    FaultLog("skip", 5, file).add(fault(1), 100)
    FaultLog("skip", 5, file).add(Fault("train", 2, None, None, 'a, "b"'), 100)
    again = FaultLog("skip", 5, file)
    again.add(fault(1), 100)
    assert list(again.skipped.values()) == [fault(1), Fault("train", 2, None, None, 'a, "b"')]
    assert len(file.read_text().splitlines()) == 3


def bomb():
    """A small PNG that claims to be 20,000 pixels square."""
    data = encode_png(np.zeros((8, 8, 3), np.uint8))
    header = b"IHDR" + struct.pack(">2I", 20_000, 20_000) + data[24:29]
    return data[:12] + header + struct.pack(">I", zlib.crc32(header)) + data[33:]


def in_mode(pixels, mode):
    """An image in an unusual mode, which is none the less good."""
    buffer = BytesIO()
    if mode == "I;16":
        Image.fromarray(pixels[..., 0].astype(np.uint16) * 257).save(buffer, format="PNG")
    else:
        Image.fromarray(pixels).convert(mode).save(buffer, format="TIFF" if mode == "CMYK" else "PNG")
    return buffer.getvalue()


@pytest.fixture(scope="module")
def broken_set(tmp_path_factory):
    """400 images, of which row 17 is empty, 100 truncated, 101 no image and 399 a decompression bomb."""
    folder = tmp_path_factory.mktemp("broken")
    pixels = np.random.default_rng(0).integers(0, 256, (ROWS, 32, 32, 3), dtype=np.uint8)
    images = [encode_png(image) for image in pixels]
    for row, mode in enumerate(("L", "P", "CMYK", "I;16", "RGBA", "1")):
        images[row] = in_mode(pixels[row], mode)
    bad = {17: b"", 100: images[100][:200], 101: b"<html>not found</html>", 399: bomb()}
    for row, data in bad.items():
        images[row] = data
    columns = {"label": np.arange(ROWS) % 8, "path": [f"{row}.png" for row in range(ROWS)]}
    table = pa.table({"image": pa.array(images, pa.binary()), **columns})
    pq.write_table(table, folder / "train.parquet", row_group_size=50)
    (folder / "classes.json").write_text('{"classes": ["0", "1", "2", "3", "4", "5", "6", "7"]}')
    return folder / "train.parquet", sorted(bad)


def config(path, tmp_path, *overrides):
    settings = ["model.width=4", "train.duration=1ep", "train.workers=1", "train.threads=1"]
    return load_config("digits_ce", [f"output={tmp_path}", f"data.train={path}", *settings, *overrides])


@pytest.mark.slow
@pytest.mark.parametrize("stream", ["false", "true"])
def test_a_run_skips_and_lists_what_is_broken(broken_set, tmp_path, ray_session, stream):
    path, bad = broken_set
    streamed = [f"data.stream={stream}", "data.shuffle_rows=128", "data.remainder=pad"]
    outcome = launch_training(config(path, tmp_path, "data.on_error=skip", *streamed))
    assert outcome.status == "finished"
    with (outcome.run.path / "skipped.csv").open(newline="") as file:
        listed = list(csv.DictReader(file))
    assert sorted(int(row["row"]) for row in listed) == bad
    reasons = {row["path"]: row["reason"] for row in listed}
    assert reasons["17.png"] == "empty (0 bytes)"
    assert "bomb" in reasons["399.png"]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ([], r"data set 'train', row 17 \(17.png\): empty"),
        (["data.on_error=skip", "data.max_errors=2"], "max_errors: 3"),
    ],
)
def test_a_run_fails_at_the_first_or_past_the_limit(broken_set, tmp_path, ray_session, overrides, message):
    with pytest.raises(ValueError, match=message):
        launch_training(config(broken_set[0], tmp_path, *overrides))
