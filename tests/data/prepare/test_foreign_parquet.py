import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from rtk.data.prepare.foreign_parquet import open_foreign_parquet
from rtk.data.prepare.prepare import prepare
from rtk.data.prepare.sources import open_source
from rtk.data.sets.dataset import labels, open_dataset, read_rows
from rtk.runs import bounded_parquet

IMAGE = pa.struct([("bytes", pa.binary()), ("path", pa.string())])


@pytest.fixture
def make_hub(tmp_path, png):
    """make_hub(labels, names, ...) -> Parquet as the `datasets` library writes it, with as many images."""

    def make(columns, names=(), file="hub/train-00000-of-00001.parquet", image="image"):
        count = len(next(iter(columns.values()), [0]))
        images = pa.array([{"bytes": png(row), "path": f"{row}.png"} for row in range(count)], IMAGE)
        features = {column: {"names": names, "_type": "ClassLabel"} for column in columns if names}
        features[image] = {"_type": "Image"}
        table = pa.table({image: images, **columns})
        stored = {"huggingface": json.dumps({"info": {"features": features}})}
        path = tmp_path / file
        path.parent.mkdir(parents=True, exist_ok=True)
        pq.write_table(table.replace_schema_metadata(stored), path)
        return path

    return make


@pytest.mark.parametrize("kind", [pa.int64(), pa.int32(), pa.uint8()])
def test_names_stand_in_the_schema_and_images_in_a_struct(make_hub, png, tmp_path, kind):
    file = make_hub({"label": pa.array([2, 0, 2], kind)}, ["apple", "berry", "corn"])
    prepare(file.parent, tmp_path / "out")
    dataset = open_dataset(tmp_path / "out/train.parquet")
    assert dataset.classes == ("apple", "berry", "corn")
    assert [(row.image, row.label, row.path) for row in read_rows(dataset)] == [
        (png(0), 2, "0.png"), (png(1), 0, "1.png"), (png(2), 2, "2.png"),
    ]  # fmt: skip


def test_parts_are_one_split_and_other_files_others(make_hub, tmp_path):
    for number in range(2):
        make_hub({"label": [number, 0]}, ["a", "b"], f"hub/data/train-0000{number}-of-00002.parquet")
    make_hub({"label": [1]}, ["a", "b"], "hub/data/test-00000-of-00001.parquet")
    prepare(tmp_path / "hub", tmp_path / "out")
    found = {path.name: labels(open_dataset(path)).tolist() for path in (tmp_path / "out").glob("*.parquet")}
    assert found == {"train.parquet": [0, 0, 1, 0], "test.parquet": [1]}


@pytest.mark.parametrize("as_dictionary", [False, True])
def test_strings_are_classes_in_the_order_of_their_names(make_hub, as_dictionary):
    column = pa.array(["cat", "ant", "cat"])
    file = make_hub({"species": column.dictionary_encode() if as_dictionary else column}, image="img")
    source = open_source(file)
    assert source.classes == ("ant", "cat")
    assert [record.label for record in source.splits[0].read()] == [1, 0, 1]
    assert source.layout == ("2 classes from column species: ant, cat",)


def test_numbers_without_names_are_their_own_names(make_hub):
    assert open_source(make_hub({"label": [3, 0]})).classes == ("0", "1", "2", "3")
    file = make_hub({"label": [1, 0]}, file="named/x.parquet")
    (file.parent / "classes.json").write_text('{"classes": ["a", "b", "c"]}')
    assert open_source(file).classes == ("a", "b", "c")


def test_several_columns_of_classes_need_a_choice(make_hub):
    file = make_hub({"fine_label": [0, 3], "coarse_label": [1, 0]}, image="img")
    with pytest.raises(ValueError, match=r"\(fine_label, coarse_label\), wanted --classes-from COLUMN"):
        open_source(file)
    source = open_source(file, classes_from="coarse_label")
    assert (source.classes, source.ignored) == (("0", "1"), ("column fine_label",))
    assert [record.label for record in source.splits[0].read()] == [1, 0]
    assert open_source(file, classes_from="none").classes == ("unlabelled",)
    with pytest.raises(ValueError, match=r"--classes-from: got 'x', wanted a column of"):
        open_source(file, classes_from="x")


@pytest.mark.parametrize(
    ("columns", "names", "message"),
    [
        ({"label": [0, -1]}, ["a", "b"], r"label -1 in row 1 is out of range, there are 2 classes"),
        ({"label": [2]}, ["a", "b"], "label 2 in row 0 is out of range"),
        ({"label": [0, None]}, ["a"], "column 'label' has 1 missing values"),
        ({"path": ["x"]}, (), "has columns image, path, wanted a label; --classes-from none takes"),
        ({"score": [0.5]}, (), "has columns image, score, wanted a label"),
    ],
)
def test_bad_labels_are_named(make_hub, columns, names, message):
    with pytest.raises(ValueError, match=rf"train-00000-of-00001.parquet: {message}"):
        open_source(make_hub(columns, names))


def test_files_that_disagree_are_refused(make_hub, tmp_path):
    make_hub({"label": [0]}, ["a", "b"], "hub/train.parquet")
    make_hub({"label": [0]}, ["b", "a"], "hub/test.parquet")
    with pytest.raises(ValueError, match="hub: the files give column 'label' different class names"):
        open_source(tmp_path / "hub")


def test_without_images_the_columns_are_listed(tmp_path):
    pq.write_table(pa.table({"label": [0], "text": ["x"]}), tmp_path / "x.parquet")
    with pytest.raises(ValueError, match=r"x.parquet: has columns label, text, wanted one column"):
        open_source(tmp_path / "x.parquet")


def test_labels_that_expand_hugely_are_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(bounded_parquet, "PIECE_BYTES", 100_000)
    table = pa.table({"img": pa.array([b""] * 50_000, pa.binary()), "label": [3] * 50_000})
    pq.write_table(table, tmp_path / "x.parquet", row_group_size=50_000)
    for classes_from in (None, "none"):
        with pytest.raises(ValueError, match=r"x.parquet: labels of 50,000 rows may expand to"):
            open_foreign_parquet(tmp_path / "x.parquet", classes_from=classes_from)
    monkeypatch.setattr(bounded_parquet, "TABLE_BYTES", 100_000)
    names = pa.table({"img": pa.array([b""] * 500, pa.binary()), "label": ["n" * 5000] * 500})
    pq.write_table(names, tmp_path / "x.parquet")
    with pytest.raises(ValueError, match=r"x.parquet: its rows may expand to"):
        open_foreign_parquet(tmp_path / "x.parquet")
