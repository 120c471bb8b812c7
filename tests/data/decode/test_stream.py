import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from rtk.config.load import build_config
from rtk.data.decode.faults import FaultLog
from rtk.data.decode.pipeline import Selection, decode_datasets
from rtk.data.decode.stream import check_decoding_cpus, open_stream, start_feeder
from rtk.data.image import encode_png
from rtk.data.loader import Loader, ahead
from rtk.data.order import steps_per_epoch
from rtk.data.sets.dataset import open_dataset
from rtk.data.views.maker import ViewMaker
from rtk.objectives import view_makers

ROWS, SIDE, BATCH = 90, 8, 8
CLASSES = 5
NAMES = ("clean", "mixed", "cutmix")

pytestmark = pytest.mark.slow  # a pass of Ray Data takes a second or two


@pytest.fixture(scope="module")
def files(tmp_path_factory, ray_session):
    """Two files with row groups of 7, ids from 500."""
    folder = tmp_path_factory.mktemp("streamed")
    pixels = np.random.default_rng(0).integers(0, 256, (ROWS, SIDE, SIDE, 3), dtype=np.uint8)
    encoded = [encode_png(image) for image in pixels]
    for name, part in (("a", slice(0, 50)), ("b", slice(50, ROWS))):
        columns = {"label": np.arange(ROWS)[part] % CLASSES, "sample_id": np.arange(500, 500 + ROWS)[part]}
        table = pa.table({"image": encoded[part], **columns})
        pq.write_table(table, folder / f"{name}.parquet", row_group_size=7)
    (folder / "classes.json").write_text('{"classes": ["a", "b", "c", "d", "e"]}')
    return folder


def feed(folder, faults=None, rows=None):
    """A stream with windows of 24 rows, and its feeder."""
    stream = open_stream(Selection(open_dataset(folder), SIDE, rows), 24, BATCH)
    return stream, start_feeder(stream, 3, faults or FaultLog())


@pytest.fixture(scope="module")
def shared(files):
    """One feeder for several loaders: starting one takes a second."""
    return feed(files)


def loader(feed, rank=(0, 1), remainder="drop"):
    config = build_config(
        {
            "data": {"train": "x", "validation": "x", "image_size": SIDE, "augment": {"crop_padding": 1}},
            "train": {"batch_size": BATCH, "workers": rank[1]},
            "seed": 3,
        }
    )
    steps = steps_per_epoch(len(feed[0]), BATCH, remainder)

    def make(images):
        return ViewMaker(images, None, CLASSES, config.data, view_makers(config.objective), config.seed)

    return Loader(config, make, None, feed, (steps, 100 * steps), rank, torch.device("cpu"))


def seen(load, step):
    """Sample ids of a step."""
    images, rows = load._share(*divmod(step, load.steps_per_epoch))
    return images.sample_ids[rows].tolist()


def all_seen(load, first, last):
    """Sample ids of several steps, one after the other."""
    return [sample for step in range(first, last) for sample in seen(load, step)]


def test_every_sample_once_an_epoch_in_another_order_each(shared):
    load = loader(shared)
    epochs = [all_seen(load, 0, 11), all_seen(load, 11, 22)]
    for ids in epochs:
        assert len(set(ids)) == len(ids) == 88
        assert set(ids) <= set(range(500, 500 + ROWS))
    assert epochs[0] != epochs[1]


def test_pad_takes_every_sample(shared):
    load = loader(shared, remainder="pad")
    ids = all_seen(load, 0, 12)
    assert set(ids) == set(range(500, 500 + ROWS))
    assert len(ids) == 96


def test_a_short_rest_joins_the_window_before(files):
    short = feed(files, rows=73)  # three windows of 24, and one row
    load = loader(short, remainder="pad")
    assert short[0].windows == 3
    assert set(all_seen(load, 0, 10)) == set(short[0].selection.sample_ids())
    assert list(load.asked) == [(1, 0)]
    assert len(set(seen(load, 9))) == BATCH


@pytest.mark.parametrize("ranks", [2, 4])
def test_views_do_not_depend_on_the_number_of_workers(shared, ranks):
    load = loader(shared)
    parts = [loader(shared, (rank, ranks)) for rank in range(ranks)]
    for step in (0, 2, 3, 10):
        whole = load(step, NAMES)
        cut = [part(step, NAMES) for part in parts]
        for name in NAMES:
            joined = torch.cat([views[name].images for views in cut])
            torch.testing.assert_close(joined, whole[name].images, rtol=0, atol=1e-6)


def test_resuming_continues_at_the_right_sample(shared, files):
    straight = loader(shared)
    wanted = [seen(straight, step) for step in range(14)]
    resumed = loader(feed(files))
    assert [seen(resumed, step) for step in range(5, 14)] == wanted[5:]


def test_a_streamed_image_is_the_decoded_one(shared, files):
    load = loader(shared)
    images, _ = load._share(0, 0)
    whole = decode_datasets({"train": Selection(open_dataset(files), SIDE)})["train"]
    rows = images.sample_ids - 500
    assert (images.images == whole.images[rows]).all()
    assert (images.labels == whole.labels[rows]).all()
    assert len(set(images.sample_ids)) == 24


@pytest.fixture(scope="module")
def broken(tmp_path_factory, files):
    folder = tmp_path_factory.mktemp("broken")
    table = pq.read_table(files / "a.parquet")
    images = table["image"].to_pylist()
    for row in (3, 20, 41):
        images[row] = images[row][:40]
    columns = {"image": pa.array(images, pa.binary()), "path": [f"{row}.png" for row in range(50)]}
    table = table.drop_columns("image")
    for name, values in columns.items():
        table = table.append_column(name, [values])
    pq.write_table(table, folder / "all.parquet", row_group_size=10)
    (folder / "classes.json").write_text('{"classes": ["a", "b", "c", "d", "e"]}')
    return folder


def test_skipped_images_are_listed_and_replaced(broken, tmp_path):
    load = loader(feed(broken, FaultLog("skip", 3, tmp_path / "skipped.csv")), remainder="pad")
    ids = all_seen(load, 0, 14)  # into a second epoch: listed once all the same
    assert set(ids) == set(range(500, 550)) - {503, 520, 541}
    listed = FaultLog("skip", 3, tmp_path / "skipped.csv").skipped
    assert {(fault.row, fault.sample_id, fault.path) for fault in listed.values()} == {
        (3, 503, "3.png"),
        (20, 520, "20.png"),
        (41, 541, "41.png"),
    }


@pytest.mark.parametrize(
    ("faults", "message"),
    [
        (FaultLog(), r"data set 'train', row \d+ \(\d+.png\): "),
        (FaultLog("skip", 0.02), "data.max_errors: 2 "),
    ],
)
def test_a_fault_stops_the_stream(broken, faults, message):
    load = loader(feed(broken, faults))
    with pytest.raises(ValueError, match=message):
        all_seen(load, 0, 6)


def test_workers_that_hold_every_cpu_are_refused(ray_session):
    cpus = int(ray_session.cluster_resources()["CPU"])
    with pytest.raises(
        ValueError, match=f"train.workers: got {cpus}, wanted at most {cpus - 1} with data.stream"
    ):
        check_decoding_cpus(cpus)
    check_decoding_cpus(cpus - 1)


def test_ahead_keeps_the_order_and_passes_errors_on():
    assert list(ahead(lambda step: step * 2, range(5), 1)) == [0, 2, 4, 6, 8]
    assert list(ahead(lambda step: step, [], 1)) == []
    here = torch.get_num_threads()
    assert list(ahead(lambda step: torch.get_num_threads(), range(2), here + 1)) == [here + 1] * 2
    assert torch.get_num_threads() == here
    results = ahead(lambda step: 1 // (2 - step), range(5), 1)
    assert [next(results), next(results)] == [0, 1]
    with pytest.raises(ZeroDivisionError):
        next(results)
