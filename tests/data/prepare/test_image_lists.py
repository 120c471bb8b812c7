"""OpenOOD's image lists: exact subsets in order, classes by folder names, what is missing named."""

import json
from collections import Counter

import pytest

from rtk.cli import main
from rtk.data.prepare.image_lists import open_image_lists, read_image_list
from rtk.data.prepare.prepare import prepare
from rtk.data.sets.dataset import check_labels, labels, open_dataset, read_rows

# Lists as OpenOOD v1.5 has them (names, forms of the lines), of two classes and few images.
LISTS = {
    "train_cifar10": {"cifar10/train/cat/0002.png": "1", "cifar10/train/airplane/0001.png": "0"},
    "val_cifar10": {"cifar10/test/airplane/0009.png": "0", "cifar10/test/cat/0007.png": "1"},
    "test_cifar10": {"cifar10/test/cat/0298.png": "1 ", "cifar10/test/airplane/0267.png": "0"},
    "test_cifar10c": {"cifar10c/04972_1.png": "1", "cifar10c/00701_0.png": "0"},
    "test_tin": {"tin/val/images/val_1.JPEG": "-1", "tin/val/images/val_0.JPEG": "-1"},
    "val_tin": {"tin/val/images/val_2.JPEG": "-1"},
    "fractals_fvis": {"fractals/1.png": "", "fractals/the waves of time.jpg": ""},
    "test_cifar10_mos": {"cifar10/test/cat/0298.png": '{ "group_label": 1 ,"class_label": 3 }'},
}


@pytest.fixture
def openood(tmp_path, png):
    """openood(lists) -> folder with `benchmark_imglist/cifar10` and `images_classic` of these lists."""

    def make(lists=LISTS, without=()):
        folder = tmp_path / "data"
        where = folder / "benchmark_imglist/cifar10"
        where.mkdir(parents=True, exist_ok=True)
        for name, lines in lists.items():
            text = "".join(f"{path} {label}\n" if label else f"{path}\n" for path, label in lines.items())
            (where / f"{name}.txt").write_text(text)
            for number, path in enumerate(lines):
                if path not in without:
                    image = folder / "images_classic" / path
                    image.parent.mkdir(parents=True, exist_ok=True)
                    image.write_bytes(png(len(name) * 100 + number))
        return folder

    return make


def arguments(folder, *more):
    lists = sorted(map(str, (folder / "benchmark_imglist/cifar10").glob("*.txt")))  # as a shell expands *.txt
    out = ["--out", str(folder / "out")]
    return ["data", "prepare", "--source", "openood", *lists, str(folder / "images_classic"), *out, *more]


def test_each_list_becomes_a_set_with_its_images_in_order(openood, capsys):
    folder = openood()
    assert main(arguments(folder)) == 0
    out = folder / "out"
    for name, lines in LISTS.items():
        if not name.endswith("_mos"):
            rows = list(read_rows(open_dataset(out / f"{name}.parquet")))
            assert [row.path for row in rows] == list(lines)
            assert [row.image for row in rows] == [
                (folder / "images_classic" / path).read_bytes() for path in lines
            ]
    for name in ("train_cifar10", "val_cifar10", "test_cifar10", "test_cifar10c"):
        dataset = open_dataset(out / f"{name}.parquet")
        assert dataset.classes == ("airplane", "cat")
        assert labels(dataset).tolist() == [int(label) for label in LISTS[name].values()]
    for name in ("test_tin", "val_tin", "fractals_fvis"):
        dataset = open_dataset(out / f"{name}.parquet")
        assert dataset.classes == ("unlabelled",)
        check_labels(dataset, 1)
    ids = [row.sample_id for row in read_rows(open_dataset(out))]
    assert sorted(ids) == list(range(13))
    manifest = json.loads((out / "manifest.json").read_text())
    assert manifest["class_counts"] == [4, 4]
    printed = " ".join(capsys.readouterr().out.split())
    assert "test_tin 2 images of no class" in printed
    assert "test_cifar10 2 images of 2 classes" in printed
    assert "left out: test_cifar10_mos.txt: names groups of classes (MOS)" in printed


def test_missing_images_are_counted_and_named_or_left_out(openood, capsys):
    absent = [*LISTS["test_cifar10c"], "tin/val/images/val_0.JPEG"]
    folder = openood(without=absent)
    assert main(arguments(folder)) == 2
    error = capsys.readouterr().err
    assert "test_cifar10c.txt: 2 of 2 images, such as cifar10c/04972_1.png, cifar10c/00701_0.png" in error
    assert "test_tin.txt: 1 of 2 images, such as tin/val/images/val_0.JPEG" in error
    assert "--skip-bad leaves them out" in error
    assert not (folder / "out").exists()
    assert main(arguments(folder, "--skip-bad")) == 0
    printed = capsys.readouterr().out
    assert "skipped, could not be read: 1\n  tin/val/images/val_0.JPEG" in printed
    assert "test_cifar10c.txt: none of its images is there" in printed
    assert [row.path for row in read_rows(open_dataset(folder / "out/test_tin.parquet"))] == [
        "tin/val/images/val_1.JPEG"
    ]
    assert not (folder / "out/test_cifar10c.parquet").exists()


def test_images_are_looked_for_in_further_folders(openood, tmp_path):
    folder = openood()
    (folder / "images_classic/tin").rename(folder / "tin")
    lists = sorted((folder / "benchmark_imglist/cifar10").glob("*.txt"))
    prepare(folder / "images_classic", tmp_path / "out", kind="openood", image_lists=[*lists, folder])
    assert open_dataset(tmp_path / "out/test_tin.parquet").rows == 2


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        (["a/1.png 0", "a/2.png"], r"line 2: got 'a/2.png', wanted the path .* and its label"),
        (["a/1.png 0", "", "a/2.png x"], r"line 3: got 'a/2.png x'"),
        (["a/1.png 0", "a/2.png -2"], r"line 2: got 'a/2.png -2', wanted .*-1: of no class"),
        (["a/1.png 0", "a/2.png -1"], r"line 2: got 'a/2.png -1', but label 0 in line 1"),
        (["a/1.png", "a/2.png 3"], r"line 2: got 'a/2.png 3', wanted the path of an image .*as in the first"),
        (["/etc/1.png 0"], r"line 1: got '/etc/1.png 0', wanted the path of an image below the folder"),
        (["a/../../1.png 0"], r"line 1: .* below the folder"),
        ([], "got an empty image list"),
    ],
)
def test_malformed_lines_are_named(tmp_path, lines, message):
    file = tmp_path / "test_x.txt"
    file.write_text("\n".join(lines))
    with pytest.raises(ValueError, match=rf"test_x\.txt.*{message}"):
        read_image_list(file)


def test_classes_without_folders_of_their_own_are_numbers_or_given(openood, tmp_path):
    folder = openood({"test_imagenet_v2": {"v2/1/a.jpeg": "1", "v2/0/b.jpeg": "0", "v2/2/c.jpeg": "2"}})
    lists = [folder / "benchmark_imglist/cifar10/test_imagenet_v2.txt"]
    assert open_image_lists(folder / "images_classic", image_lists=lists).classes == ("0", "1", "2")
    for count, name in enumerate(("few", "enough"), 2):
        (tmp_path / name).mkdir()
        (tmp_path / name / "classes.json").write_text(json.dumps({"classes": list("tgs"[:count])}))
    given = open_image_lists(
        folder / "images_classic", image_lists=lists, classes_from=str(tmp_path / "enough")
    )
    assert given.classes == ("t", "g", "s")
    with pytest.raises(ValueError, match=r"few with 2 classes, wanted 3 or more"):
        open_image_lists(folder / "images_classic", image_lists=lists, classes_from=str(tmp_path / "few"))


def test_lists_of_two_benchmarks_are_refused(openood, tmp_path):
    folder = openood({**LISTS, "test_other": {"other/fox/1.png": "0", "other/elk/2.png": "1"}})
    lists = sorted((folder / "benchmark_imglist/cifar10").glob("*.txt"))
    with pytest.raises(ValueError, match=r"label \d is of the folder .*wanted the lists of one benchmark"):
        open_image_lists(folder / "images_classic", image_lists=lists)
    second = tmp_path / "test_tin.txt"
    second.write_text("a/b.png -1")
    with pytest.raises(ValueError, match=r"is called like .*test_tin\.txt"):
        open_image_lists(folder / "images_classic", image_lists=[*lists[:-2], second])


def test_lists_of_images_of_no_class_alone_and_usage(openood, tmp_path, capsys):
    folder = openood({"test_tin": LISTS["test_tin"]})
    assert main(arguments(folder)) == 0
    dataset = open_dataset(folder / "out/test_tin.parquet")
    assert (dataset.classes, Counter(labels(dataset).tolist())) == (("unlabelled",), {0: 2})
    files = [str(folder / "images_classic"), str(folder / "out")]
    assert main(["data", "prepare", *files, "--out", str(tmp_path / "x")]) == 2
    assert "got 2 sources, wanted one; image lists" in capsys.readouterr().err
    assert main(["data", "prepare", "--source", "opnood", *files[:2], "--out", str(tmp_path / "x")]) == 2
    assert "--source: unknown kind 'opnood', nearest valid kind is 'openood'" in capsys.readouterr().err
    only_list = str(folder / "benchmark_imglist/cifar10/test_tin.txt")
    assert main(["data", "prepare", "--source", "openood", only_list, "--out", str(tmp_path / "x")]) == 2
    assert "got no folder" in capsys.readouterr().err
