"""Metrics reduced over a Ray dataset equal those of the arrays in memory."""

from __future__ import annotations

import json
import re
from dataclasses import asdict

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from rtk.cli import main
from rtk.data.sets.storage import locate
from rtk.evaluate.reduce import check_score_files, ood_sets, reduce_joint_metrics
from rtk.metrics import ds_aurc, ds_f1, ood_aurc, ood_f1

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def arrays():
    """Rows of one ID and two OOD sets as in `scores.parquet`."""
    rng = np.random.default_rng(0)
    name = np.repeat(["test", "cats", "noise"], [3000, 2000, 1000])
    skill = rng.normal(np.repeat([1.5, 0.0, -2.0], [3000, 2000, 1000]))
    return {
        "set": name,
        "group": np.repeat(["id", "near", "far"], [3000, 2000, 1000]),
        "sample_id": np.arange(6000),
        "is_correct": rng.random(6000) < 1 / (1 + np.exp(-skill)),
        "msp": (1 / (1 + np.exp(-skill - rng.normal(size=6000)))).astype(np.float32),
        "knn": np.round(skill + rng.normal(size=6000), 2),
    }


@pytest.fixture(scope="module")
def folder(arrays, tmp_path_factory):
    """The rows, shuffled, in five files of three row groups; one file holds only the set `noise`."""
    folder = tmp_path_factory.mktemp("scores")
    rows = np.random.default_rng(1).permutation(5000)
    for i, part in enumerate([*np.array_split(rows, 4), np.arange(5000, 6000)]):
        table = pa.table({key: values[part] for key, values in arrays.items()})
        pq.write_table(table, folder / f"{i}.parquet", row_group_size=500)
    return folder


@pytest.fixture(scope="module")
def dataset(ray_session, folder):
    return ray_session.data.read_parquet(str(folder), override_num_blocks=5)


@pytest.mark.parametrize("ood_set", ["cats", "noise"])
def test_equals_the_metrics_in_memory(dataset, arrays, ood_set):
    known, unseen = arrays["group"] == "id", arrays["set"] == ood_set
    scores = arrays["knn"][known], arrays["is_correct"][known], arrays["knn"][unseen]
    five = arrays["msp"][known], *scores[:2], arrays["msp"][unseen], scores[2]
    found = reduce_joint_metrics(dataset, ood_set, confidence="msp", ood_score="knn")
    assert found.ds_f1 == ds_f1(*five, method="grid")
    assert found.ds_aurc == ds_aurc(*five, method="grid")
    assert found.ood_f1 == ood_f1(*scores, method="grid")
    assert found.ood_aurc == ood_aurc(*scores, method="grid")


def test_one_column_may_be_both_scores(dataset, arrays):
    known, unseen = arrays["group"] == "id", arrays["set"] == "cats"
    msp = arrays["msp"]
    five = msp[known], msp[known], arrays["is_correct"][known], msp[unseen], msp[unseen]
    assert reduce_joint_metrics(dataset, "cats", "msp", "msp").ds_aurc == ds_aurc(*five, method="grid")


def test_the_command_measures_every_ood_set_of_a_table(ray_session, folder, dataset, capsys):
    assert main(["metrics", str(folder), "--json"]) == 0
    printed = capsys.readouterr().out
    found = json.loads(printed[printed.index("{\n") :])  # Ray may warn before it of many workers
    assert list(found) == ["cats", "noise"]
    for name, metrics in found.items():
        assert metrics == asdict(reduce_joint_metrics(dataset, name, "msp", "knn"))
    assert main(["metrics", str(folder), "--ood", "noise", "--ood-score", "msp"]) == 0
    shown = capsys.readouterr().out
    assert re.search(r"noise .* \d+\.\d\d", shown)
    assert "cats" not in shown
    assert main(["metrics", str(folder), "--confidence", "energy"]) == 2
    assert "scores: got no column energy" in capsys.readouterr().err


def test_mistakes_are_named(dataset):
    with pytest.raises(ValueError, match="scores: got no column energy, wanted set, group"):
        reduce_joint_metrics(dataset, "cats", "msp", "energy")
    with pytest.raises(ValueError, match="got no rows of an OOD set"):
        ood_sets(dataset.filter(lambda row: row["group"] == "id"))
    with pytest.raises(ValueError, match="is_ood: got no OOD image"):
        reduce_joint_metrics(dataset, "dogs", "msp", "knn")
    with pytest.raises(ValueError, match=r"confidence: got values in .*, wanted \[0, 1\]"):
        reduce_joint_metrics(dataset, "cats", "knn", "msp")


def test_files_that_expand_hugely_are_not_read_by_ray(folder, tmp_path):
    check_score_files(*locate(str(folder)))
    check_score_files(*locate(str(folder / "0.parquet")))
    place = tmp_path / "a" / "x.parquet"
    place.parent.mkdir()
    bombs = {
        "the pages of row group 0 may expand to": {"msp": np.zeros(20_000_000)},
        "a set or group with a name of over 1000 bytes": {"set": ["x" * 2000] * 9, "group": ["id"] * 9},
    }
    for said, columns in bombs.items():
        options = {"use_dictionary": ["set"], "data_page_size": 2**30, "max_rows_per_page": 2**30}
        pq.write_table(pa.table(columns), place, compression="zstd", row_group_size=2**30, **options)
        with pytest.raises(ValueError, match=re.escape(said)):
            check_score_files(*locate(str(tmp_path)))
