import json

import numpy as np
import pytest
from PIL import Image

from rtk.cli import main
from rtk.data.prepare.prepare import prepare
from rtk.data.prepare.split import SplitOptions, parse_fractions
from rtk.data.sets.dataset import open_dataset, read_rows

PARTS = ("train", "validation", "test")


def scene(seed, side=48):
    """A picture that a smaller or compressed copy can be told to be of."""
    coarse = np.random.default_rng(seed).integers(0, 256, (6, 6, 3), dtype=np.uint8)
    return Image.fromarray(coarse).resize((side, side), Image.Resampling.BICUBIC)


@pytest.fixture
def photos(tmp_path):
    """photos(folder): 20 images each of two classes; the first five of each also as smaller JPEG copies."""

    def make(name="photos"):
        for label, kind in enumerate(("cat", "dog")):
            folder = tmp_path / name / kind
            folder.mkdir(parents=True)
            for number in range(20):
                picture = scene(100 * label + number)
                picture.save(folder / f"visit{number % 10}_{number}.png")
                if number < 5:
                    picture.resize((32, 32)).save(folder / f"visit{number}_copy{number}.jpg", quality=80)
        return tmp_path / name

    return make


def paths(folder):
    return {part: [row.path for row in read_rows(open_dataset(folder / f"{part}.parquet"))] for part in PARTS}


def test_copies_stay_on_one_side_and_classes_in_each(tmp_path, photos):
    report = prepare(photos(), tmp_path / "out", split=SplitOptions((0.6, 0.2, 0.2)))
    split = report.split
    assert (split.near_duplicate_groups, split.near_duplicate_images) == (10, 20)
    assert (split.largest_near_duplicates, split.groups) == (2, None)
    assert [file.file for file in report.files] == [f"{part}.parquet" for part in PARTS]
    assert [file.class_counts for file in report.files] == [(15, 15), (5, 5), (5, 5)]
    assert split.reached == (0.6, 0.2, 0.2)
    found = paths(tmp_path / "out")
    part_of = {path: part for part, members in found.items() for path in members}
    assert len(part_of) == 50
    for kind in ("cat", "dog"):
        for number in range(5):
            pair = [f"{kind}/visit{number}_{end}" for end in (f"{number}.png", f"copy{number}.jpg")]
            assert part_of[pair[0]] == part_of[pair[1]]
    manifest = json.loads((tmp_path / "out/manifest.json").read_text())
    assert manifest["split"]["options"]["fractions"] == [0.6, 0.2, 0.2]
    ids = [row.sample_id for row in read_rows(open_dataset(tmp_path / "out"))]
    assert sorted(ids) == list(range(50))


def test_same_seed_same_files(tmp_path, photos):
    source = photos()
    files = [
        prepare(source, tmp_path / str(number), split=SplitOptions((0.6, 0.2, 0.2), seed)).files
        for number, seed in enumerate((1, 1, 2))
    ]
    assert files[0] == files[1]
    assert files[0] != files[2]


def test_groups_by_a_pattern_of_the_path(tmp_path, photos):
    options = SplitOptions((0.6, 0.2, 0.2), group_pattern=r"visit(\d)")
    report = prepare(photos(), tmp_path / "out", split=options)
    assert report.split.groups == 10
    visits = {
        part: {path.split("visit")[1][0] for path in found} for part, found in paths(tmp_path / "out").items()
    }
    assert sum(map(len, visits.values())) == 10
    assert set.union(*visits.values()) == set("0123456789")


def test_groups_by_a_column(tmp_path, png, make_parquet):
    owners = [f"owner {row // 4}" for row in range(40)]
    source = make_parquet([png(row) for row in range(40)], [row % 2 for row in range(40)], owner=owners)
    report = prepare(source, tmp_path / "out", split=SplitOptions((0.6, 0.2, 0.2), group_by="owner"))
    assert (report.split.groups, report.split.reached) == (10, (0.6, 0.2, 0.2))
    original = {png(row): owner for row, owner in enumerate(owners)}
    found = [
        {original[row.image] for row in read_rows(open_dataset(tmp_path / f"out/{part}.parquet"))}
        for part in PARTS
    ]
    assert [len(part) for part in found] == [6, 2, 2]
    assert len(set.union(*found)) == 10


def test_groups_by_a_column_of_parquet_of_others(tmp_path, png, make_parquet):
    owners = [row // 4 for row in range(40)]
    names = ["cat", "dog"] * 20
    source = make_parquet([png(row) for row in range(40)], names, classes=None, owner=owners)
    report = prepare(source, tmp_path / "out", split=SplitOptions((0.6, 0.2, 0.2), group_by="owner"))
    assert (report.kind, report.split.groups, report.split.reached) == (
        "Parquet of others",
        10,
        (0.6, 0.2, 0.2),
    )


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"group_by": "owner"}, "--group-by: image folder has no columns; --group-pattern"),
        ({"group_pattern": "("}, "--group-pattern: got '\\(', no regular expression"),
        ({"group_pattern": "copy"}, "'copy' is not in 40 of the 50 paths"),
        ({"group_pattern": "cat|dog"}, "with no image of 'cat' in validation and 3 more such gaps"),
        ({"group_pattern": "visit"}, "groups that stay together allow 1.00/0.00/0.00, with no image of"),
    ],
)
def test_groups_that_cannot_be(tmp_path, photos, options, message):
    with pytest.raises(ValueError, match=message):
        prepare(photos(), tmp_path / "out", split=SplitOptions((0.6, 0.2, 0.2), **options))
    assert not (tmp_path / "out").exists()


def test_columns_that_cannot_be(tmp_path, png, make_parquet):
    source = make_parquet([png(row) for row in range(6)], [0, 1] * 3, owner=["a", None] * 3)
    for column, message in (("owner", "has 3 missing values"), ("own", "has no column 'own'; it has image")):
        with pytest.raises(ValueError, match=message):
            prepare(source, tmp_path / "out", split=SplitOptions((0.6, 0.2, 0.2), group_by=column))


def test_too_few_images_of_a_class(tmp_path, make_folder):
    source = make_folder({"rare": 2, "common": 9})
    with pytest.raises(ValueError, match=r"too few images of 'rare' \(2\); wanted at least 3"):
        prepare(source, tmp_path / "out", split=SplitOptions((0.6, 0.2, 0.2)))
    report = prepare(source, tmp_path / "out", split=SplitOptions((0.5, 0, 0.5)))
    assert [file.file for file in report.files] == ["train.parquet", "test.parquet"]


def test_a_source_with_splits_is_not_split_again(tmp_path, make_folder):
    source = make_folder({f"{split}/{name}": 4 for split in ("train", "test") for name in "ab"})
    with pytest.raises(ValueError, match=r"has splits already \(train, test\)"):
        prepare(source, tmp_path / "out", split=SplitOptions((0.5, 0, 0.5)))


def test_broken_images_do_not_count(tmp_path, make_folder):
    source = make_folder({"a": 10, "b": 10})
    (source / "a/0.png").write_bytes(b"")
    report = prepare(source, tmp_path / "out", skip_bad=True, split=SplitOptions((0.4, 0.3, 0.3)))
    assert [file.rows for file in report.files] == [7, 6, 6]
    assert [bad.origin for bad in report.skipped] == ["a/0.png"]


def test_progress_counts_both_passes(tmp_path, make_folder):
    calls = []
    options = SplitOptions((0.4, 0.3, 0.3))
    prepare(
        make_folder({"a": 5, "b": 5}),
        tmp_path / "out",
        split=options,
        progress=lambda *call: calls.append(call),
    )
    assert calls[0] == (1, 20)
    assert calls[-1] == (20, 20)
    assert calls == sorted(calls)


def test_fractions():
    assert parse_fractions("0.7/0.15/0.15") == pytest.approx((0.7, 0.15, 0.15))
    assert parse_fractions("0.333/0.333/0.333") == pytest.approx((1 / 3,) * 3)
    for wrong, message in (
        ("0.8/0.2", "got '0.8/0.2', wanted TRAIN/VALIDATION/TEST"),
        ("70/15/15", "wanted TRAIN/VALIDATION/TEST that sum to 1"),
        ("0.7/0.2/0.2", "which sums to 1.1"),
        ("a/b/c", "got 'a/b/c'"),
        ("0/0.5/0.5", "got '0/0.5/0.5'"),
        ("nan/0.5/0.5", "got 'nan/0.5/0.5'"),
        ("1.5/-0.5/0", "got '1.5/-0.5/0'"),
    ):
        with pytest.raises(ValueError, match=message):
            parse_fractions(wrong)


def test_command(tmp_path, photos, capsys):
    out = tmp_path / "out"
    assert main(["data", "prepare", str(photos()), "--out", str(out), "--split", "0.6/0.2/0.2"]) == 0
    printed = capsys.readouterr().out
    assert "split 0.6/0.2/0.2, seed 0" in printed
    assert "groups of near-duplicates kept together: 10 (20 images, the largest of 2)" in printed
    assert [line.split()[1::2] for line in printed.splitlines() if "│ cat" in line or "│ dog" in line] == [
        ["cat", "15", "5", "5"],
        ["dog", "15", "5", "5"],
    ]
    assert main(["data", "prepare", str(tmp_path / "photos"), "--out", "x", "--group-pattern", "a"]) == 2
    assert "--group-pattern: wanted --split with it" in capsys.readouterr().err
