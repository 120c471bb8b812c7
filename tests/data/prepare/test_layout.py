import os
import unicodedata

import pytest

from rtk.cli import main
from rtk.data.prepare.layout import split_name
from rtk.data.prepare.prepare import prepare
from rtk.data.prepare.sources import open_source
from rtk.data.sets.dataset import labels, open_dataset


def found(folder, **options):
    """Images of each class of each split."""
    source = open_source(folder, **options)
    counts = {}
    for split in source.splits:
        in_split = [source.classes[record.label] for record in split.read()]
        counts[split.name] = {name: in_split.count(name) for name in sorted(set(in_split))}
    return counts


@pytest.mark.parametrize(
    ("name", "wanted"),
    [("Training", "train"), ("train_set", "train"), ("Train Images", "train"), ("TEST", "test"),
     ("testing", "test"), ("valid", "valid"), ("Validation", "validation"), ("dev", "dev"), ("trains", None),
     ("contest", None), ("data", None), ("images", None)],
)  # fmt: skip
def test_names_of_splits(name, wanted):
    assert split_name(name) == wanted


@pytest.mark.parametrize(
    ("counts", "wanted"),
    [
        ({"Training/a": 3, "Training/b": 2, "Testing/a": 1}, {"train": {"a": 3, "b": 2}, "test": {"a": 1}}),
        ({"photos/train/a": 2, "photos/train/b": 1, "photos/test/b": 1},
         {"train": {"a": 2, "b": 1}, "test": {"b": 1}}),
        ({"zip/photos/a": 2, "zip/photos/b": 1}, {"all": {"a": 2, "b": 1}}),
        ({"zip/train/a": 1, "zip/train/b": 1}, {"train": {"a": 1, "b": 1}}),
        ({"train/train/a": 1, "train/train/b": 1, "test/test/a": 2},
         {"train": {"a": 1, "b": 1}, "test": {"a": 2}}),
        ({"a/images": 2, "b/images": 1}, {"all": {"a": 2, "b": 1}}),
        ({"train/a": 1, "train/b": 1, "notes": 0}, {"train": {"a": 1, "b": 1}}),
        ({"a": 1, "b": 1, "@eaDir": 1, "a/@eaDir/x.jpg": 1, "__MACOSX/a": 1, ".thumbs": 2, "#recycle": 1},
         {"all": {"a": 1, "b": 1}}),
        ({"train": 2, "test": 1}, {"train": {"unlabelled": 2}, "test": {"unlabelled": 1}}),
    ],
)  # fmt: skip
def test_common_layouts(make_folder, counts, wanted):
    assert found(make_folder(counts)) == wanted


@pytest.mark.parametrize(
    ("counts", "message", "options", "wanted"),
    [
        ({"photos": 2}, "the single class 'photos'.*--classes-from none", {"classes_from": "none"},
         {"all": {"unlabelled": 2}}),
        ({"train/cat": 2, "test/cat": 1}, "the single class 'cat'", {"classes_from": "top"},
         {"train": {"cat": 2}, "test": {"cat": 1}}),
        ({"cat/train": 2, "cat/test": 1, "dog/train": 1, "dog/test": 1},
         "cat: a class folder that holds only folders .test, train.; --split-folders test,train takes",
         {"split_folders": ("train", "test")}, {"train": {"cat": 2, "dog": 1}, "test": {"cat": 1, "dog": 1}}),
        ({"cat/train": 2, "cat/test": 1, "dog/train": 1}, "--split-folders none as one class 'cat'",
         {"split_folders": ()}, {"all": {"cat": 3, "dog": 1}}),
        ({"pet/cat": 2, "pet/dog": 1, "wild/fox": 1}, "--classes-from parent takes these as classes",
         {"classes_from": "parent"}, {"all": {"cat": 2, "dog": 1, "fox": 1}}),
        ({"train/pet/cat": 2, "train/pet/dog": 1, "train/wild/fox": 1}, "--classes-from top .*'pet'",
         {"classes_from": "top"}, {"train": {"pet": 3, "wild": 1}}),
        ({"train/a": 1, "test/a": 2, "train/b": 1, "extra/a": 1}, "--split-folders test,train leaves",
         {"split_folders": ("train", "test")}, {"train": {"a": 1, "b": 1}, "test": {"a": 2}}),
        ({"train/a": 1, "training/a": 2, "train/b": 1, "training/b": 1}, "are both the split train",
         {"split_folders": ("training",)}, {"train": {"a": 2, "b": 1}}),
        ({"train/a": 1, "train/b": 1, "test": 1}, "test/ holds images without class folders.*folders train",
         {"split_folders": ("train",)}, {"train": {"a": 1, "b": 1}}),
        ({"2023/a": 1, "2023/b": 1, "2024/a": 2, "2024/b": 1}, "a class folder that holds only folders",
         {"split_folders": ("2023", "2024")}, {"2023": {"a": 1, "b": 1}, "2024": {"a": 2, "b": 1}}),
        ({"seg_train/seg_train/a": 1, "seg_train/seg_train/b": 1, "seg_test/seg_test/a": 1},
         "--split-folders seg_test,seg_train takes the upper ones as splits",
         {"split_folders": ("seg_train", "seg_test")}, {"seg_train": {"a": 1, "b": 1}, "seg_test": {"a": 1}}),
    ],
)  # fmt: skip
def test_what_could_mean_two_things_is_refused_and_an_option_decides(
    make_folder, counts, message, options, wanted
):
    folder = make_folder(counts)
    with pytest.raises(ValueError, match=message):
        open_source(folder)
    assert found(folder, **options) == wanted


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"split_folders": ("train", "fold1")}, r"got train,fold1, but .*images holds test, train"),
        (
            {"classes_from": "label"},
            "--classes-from: got 'label', wanted for folders one of top, parent, none",
        ),
    ],
)
def test_options_that_do_not_fit(make_folder, options, message):
    folder = make_folder({"train/a": 1, "train/b": 1, "test/a": 1})
    with pytest.raises(ValueError, match=message):
        open_source(folder, **options)


def test_options_of_another_kind_of_source_are_refused(make_idx):
    import numpy as np

    folder = make_idx("train", np.zeros((2, 4, 4), np.uint8), [0, 1])
    with pytest.raises(ValueError, match="--split-folders: does not apply to a folder with MNIST's"):
        open_source(folder, split_folders=("train",))


def test_the_tree_with_counts_is_printed(make_folder, tmp_path, capsys):
    folder = make_folder({"photos/Training/a": 3, "photos/Training/b": 2, "photos/Testing/a": 1, "docs": 0})
    assert main(["data", "prepare", str(folder), "--out", str(tmp_path / "out")]) == 0
    printed = [line.split() for line in capsys.readouterr().out.splitlines()]
    wanted = [
        "photos/Training/ -> train 5 images", "a 3", "b 2", "photos/Testing/ -> test 1 image", "a 1", "b 0",
    ]  # fmt: skip
    assert printed[2:8] == [line.split() for line in wanted]


def test_many_classes_are_summed_up(make_folder):
    *_, last = open_source(make_folder({f"c{number:02}": 1 + number // 24 for number in range(25)})).layout
    assert last.split() == ["and", "5", "more", "classes", "1", "to", "2", "each"]


def test_an_ambiguous_folder_is_bad_usage_and_options_are_typed(make_folder, tmp_path, capsys):
    folder, out = make_folder({"cat/2023": 2, "cat/2024": 1, "dog/2023": 1, "dog/2024": 1}), tmp_path / "out"
    assert main(["data", "prepare", str(folder), "--out", str(out)]) == 2
    assert "--classes-from parent" in capsys.readouterr().err
    assert not out.exists()
    given = ["data", "prepare", str(folder), "--out", str(out), "--split-folders", "2023,2024"]
    assert main(given) == 0
    assert sorted(path.name for path in out.glob("*.parquet")) == ["2023.parquet", "2024.parquet"]
    none = [*given[:-2], "--split-folders", "none", "--classes-from", "parent"]
    none[4] = str(tmp_path / "parents")
    assert main(none) == 0
    assert open_dataset(tmp_path / "parents").classes == ("2023", "2024")


# Links


def test_links_to_folders_and_files_are_followed(make_folder, tmp_path):
    real = make_folder({"apple": 5, "berry": 2}, "real")
    merged = make_folder({"apple": 3, "berry": 1}, "merged")
    (merged / "apple/more").symlink_to(real / "apple")
    (merged / "berry/one.png").symlink_to(real / "berry/0.png")
    (merged / "corn").symlink_to(real / "berry")
    assert found(merged) == {"all": {"apple": 8, "berry": 2, "corn": 2}}
    subset = tmp_path / "subset"
    subset.mkdir()
    for name in ("apple", "berry"):
        (subset / name).symlink_to(real / name)
    assert found(subset) == {"all": {"apple": 5, "berry": 2}}


def test_a_link_back_ends_and_a_link_to_nowhere_is_named(make_folder, tmp_path):
    folder = make_folder({"a": 2, "b": 1})
    (folder / "a/up").symlink_to(folder)
    source = open_source(folder)
    assert (source.count, source.ignored) == (3, ("a/up",))
    (folder / "corn").symlink_to(tmp_path / "gone")
    with pytest.raises(ValueError, match=r"corn: a link to .*gone, which does not exist"):
        open_source(folder)


# Names


def test_composed_and_decomposed_names_are_one_class(make_folder, tmp_path):
    composed, decomposed = (unicodedata.normalize(form, "café") for form in ("NFC", "NFD"))
    assert composed != decomposed
    folder = make_folder({f"train/{composed}": 2, "train/nuez": 1, f"test/{decomposed}": 3})
    (folder / "train" / decomposed).mkdir(exist_ok=True)
    (folder / "train" / decomposed / "more.png").write_bytes((folder / "train/nuez/0.png").read_bytes())
    assert found(folder) == {"train": {composed: 3, "nuez": 1}, "test": {composed: 3}}
    prepare(folder, tmp_path / "out")
    assert open_dataset(tmp_path / "out").classes == (composed, "nuez")
    assert labels(open_dataset(tmp_path / "out/test.parquet")).tolist() == [0, 0, 0]


def test_a_class_name_that_is_not_utf8_is_named(make_folder, png):
    folder = make_folder({"a": 1, "b": 1})
    try:
        os.mkdir(os.fsencode(folder) + b"/caf\xe9")
    except OSError:
        pytest.skip("this file system takes only Unicode names")
    with open(os.fsencode(folder) + b"/caf\xe9/x.png", "wb") as file:
        file.write(png())
    with pytest.raises(ValueError, match=r"images/caf\\xe9: the name of this class folder is not UTF-8"):
        open_source(folder)
