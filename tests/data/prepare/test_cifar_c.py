"""CIFAR-C's NumPy files: a set of each severity of each corruption, and nothing is unpickled."""

import os
import pickle

import numpy as np
import pytest

from rtk.cli import main
from rtk.data.image import decode_rgb
from rtk.data.prepare.sources import open_source
from rtk.data.sets.dataset import labels, open_dataset, read_rows

LABELS = [2, 0, 1, 1]


@pytest.fixture
def cifar_c(tmp_path):
    """cifar_c(**replaced) -> folder with `brightness.npy`, `fog.npy`, `labels.npy` of 4 images; None: not."""

    def make(**replaced):
        folder = tmp_path / "CIFAR-10-C"
        folder.mkdir()
        generator = np.random.default_rng(0)
        arrays = {
            name: generator.integers(0, 256, (20, 8, 8, 3), dtype=np.uint8) for name in ("fog", "brightness")
        }
        arrays["labels"] = np.array(LABELS * 5)
        for name, array in (arrays | replaced).items():
            if isinstance(array, bytes):
                (folder / f"{name}.npy").write_bytes(array)
            elif array is not None:
                np.save(folder / f"{name}.npy", array)
        return folder

    return make


def test_each_severity_becomes_a_set(cifar_c, tmp_path, capsys):
    folder, out = cifar_c(), tmp_path / "out"
    (tmp_path / "classes.json").write_text('{"classes": ["ant", "bee", "cat"]}')
    assert open_source(folder).kind == "CIFAR-C arrays"
    assert open_source(folder).classes == ("0", "1", "2")
    arguments = ["data", "prepare", "--source", "cifar_c", str(folder), "--out", str(out)]
    assert main([*arguments, "--classes-from", str(tmp_path)]) == 0
    assert "2 corruptions x 5 severities of 4 images each" in capsys.readouterr().out
    names = sorted(path.stem for path in out.glob("*.parquet"))
    assert names == [f"{kind}-{severity}" for kind in ("brightness", "fog") for severity in range(1, 6)]
    dataset = open_dataset(out / "fog-3.parquet")
    assert (dataset.classes, labels(dataset).tolist()) == (("ant", "bee", "cat"), LABELS)
    pixels = np.stack([decode_rgb(row.image, None) for row in read_rows(dataset)])
    np.testing.assert_array_equal(pixels, np.load(folder / "fog.npy")[8:12])


class Executed:
    def __init__(self, command):
        self.command = command

    def __reduce__(self):
        return os.system, (self.command,)


@pytest.mark.parametrize(
    ("replaced", "message"),
    [
        (
            {"fog": np.zeros((20, 8, 8, 3))},
            r"fog.npy: got float64 \(20, 8, 8, 3\), wanted uint8 \(20, ",
        ),
        ({"fog": np.zeros((15, 8, 8, 3), np.uint8)}, r"fog.npy: got uint8 \(15, .*an image for each label"),
        ({"fog": np.zeros((20, 8, 8), np.uint8)}, r"fog.npy: got uint8 \(20, 8, 8\)"),
        ({"fog": b"\x93NUMPY\x01\x00"}, "fog.npy: cannot be read as a NumPy array of numbers"),
        ({"labels": None}, "labels.npy: cannot be read"),
        ({"labels": np.arange(19)}, r"labels.npy: got int64 \(19,\), wanted integers, as many for each of 5"),
        ({"labels": np.zeros(20)}, r"labels.npy: got float64"),
        ({"labels": np.arange(20)}, "labels.npy: got other labels for some severities"),
        ({"fog": None, "brightness": None}, "got no CORRUPTION.npy"),
    ],
)
def test_other_arrays_are_refused(cifar_c, replaced, message):
    with pytest.raises(ValueError, match=message):
        open_source(cifar_c(**replaced), "cifar_c")


def test_nothing_is_unpickled(cifar_c, tmp_path):
    mark = tmp_path / "executed"
    folder = cifar_c()
    np.save(folder / "fog.npy", np.array([Executed(f"touch {mark}")] * 20), allow_pickle=True)
    with pytest.raises(ValueError, match="fog.npy: cannot be read as a NumPy array of numbers"):
        open_source(folder)
    (folder / "fog.npy").write_bytes(pickle.dumps(Executed(f"touch {mark}")))
    with pytest.raises(ValueError, match="fog.npy: cannot be read as a NumPy array of numbers"):
        open_source(folder)
    assert not mark.exists()
