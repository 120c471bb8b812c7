"""Object storage for `cluster.py` and `faults.py`: a server on this machine, and the digits on it."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

BUCKET = "s3://rtk"
SETS = {
    "train": "train",
    "validation": "validation",
    "test": "test",
    "near_ood.digits89": "near_digits89",
    "far_ood.photos": "far_photos",
    "validation_near_ood.halves": "validation_near_halves",
    "validation_far_ood.noise": "validation_far_noise",
}
DIGITS = [f"data.{key}={BUCKET}/digits/{name}.parquet" for key, name in SETS.items()]


@contextmanager
def storage(address: str) -> Iterator[str]:
    """The URL of a server of object storage at an address of this machine, which keeps all in memory."""
    from moto.server import ThreadedMotoServer

    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    server = ThreadedMotoServer(ip_address=address, port=0, verbose=False)
    server.start()
    try:
        yield f"http://{address}:{server.get_host_and_port()[1]}"
    finally:
        server.stop()


def keys(url: str) -> dict[str, str]:
    """Environment of those who work with such a server."""
    return {
        "AWS_ENDPOINT_URL": url,
        "AWS_ACCESS_KEY_ID": "x",
        "AWS_SECRET_ACCESS_KEY": "x",
        "AWS_DEFAULT_REGION": "us-east-1",
    }


def make_bucket(url: str) -> Any:
    """Make the bucket on a server; returns its file system."""
    from pyarrow import fs

    files = fs.S3FileSystem(
        access_key="x",
        secret_key="x",
        endpoint_override=url,
        region="us-east-1",
        allow_bucket_creation=True,
    )
    files.create_dir(BUCKET.removeprefix("s3://"))
    return files


def upload_digits(url: str) -> None:
    """Put the digits into the bucket, in row groups that are small enough to be streamed."""
    import pyarrow.parquet as pq

    from rtk.data.sets.builtin import resolve_path

    files = make_bucket(url)
    for name in {*SETS.values()}:
        table = pq.read_table(resolve_path(f"builtin:digits/{name}.parquet"))
        pq.write_table(table, f"rtk/digits/{name}.parquet", filesystem=files, row_group_size=128)
    with files.open_output_stream("rtk/digits/classes.json") as stream:
        stream.write(Path(resolve_path("builtin:digits/classes.json")).read_bytes())
