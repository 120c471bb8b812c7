"""A cluster whose nodes share nothing but a network and object storage: train, evaluate, sweep, lose a node.

    python benchmarks/cluster.py --output cluster                            everything
    python benchmarks/cluster.py --output cluster --parts train evaluate     some of it
    python benchmarks/cluster.py --output cluster --parts restart            a node is lost, and comes back

The nodes are process trees of this machine that see no common folder (`cluster_nodes.py`): a head and four
more, of one CPU each. It takes root. A JSON line of each part goes to `OUTPUT/rows.jsonl`:

- `start`: all nodes are in Ray's cluster, and have no folder in common;
- `train`: digits in Parquet are streamed from object storage to four workers under ZeRO-3, on four nodes;
- `evaluate`: the run is evaluated there;
- `sweep`: three trials, two at a time, on nodes that have only heard of their sweep;
- `restart`: a node loses its power in a run of four workers, which waits for it, goes on from the last
  checkpoint, and ends with the weights of a run that nothing has disturbed, bit by bit;
- `elastic`: the same where two workers may go on alone, and become four again.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from cluster_nodes import PORT, ROOT, Node, bridge, nodes, storage
from cluster_parts import CACHE, NODES, PARTS, SETS, Cluster, start


def upload_digits(address: str) -> None:
    """Put the digits into the bucket, in row groups that are small enough to be streamed."""
    import pyarrow.parquet as pq
    from pyarrow import fs

    from rtk.data.sets.builtin import resolve_path

    files = fs.S3FileSystem(
        access_key="x",
        secret_key="x",
        endpoint_override=address,
        region="us-east-1",
        allow_bucket_creation=True,
    )
    files.create_dir("rtk")
    for name in {*SETS.values()}:
        table = pq.read_table(resolve_path(f"builtin:digits/{name}.parquet"))
        pq.write_table(table, f"rtk/digits/{name}.parquet", filesystem=files, row_group_size=128)
    with files.open_output_stream("rtk/digits/classes.json") as stream:
        stream.write(Path(resolve_path("builtin:digits/classes.json")).read_bytes())


def environment(address: str) -> dict[str, str]:
    """Of every program of a node."""
    return {
        "PATH": os.environ["PATH"],
        "PYTHONPATH": str(ROOT),
        "AWS_ENDPOINT_URL": address,
        "AWS_ACCESS_KEY_ID": "x",
        "AWS_SECRET_ACCESS_KEY": "x",
        "AWS_DEFAULT_REGION": "us-east-1",
        "RAY_ADDRESS": f"{Node(0, {}).address}:{PORT}",
        "RAY_worker_niceness": "0",  # else other processes starve Ray's workers
        "RTK_CACHE": CACHE,
        "OMP_NUM_THREADS": "1",
        "OMP_WAIT_POLICY": "PASSIVE",
    }


def main(arguments: Sequence[str] | None = None) -> int:
    """Run what is asked for."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--output", type=Path, required=True, metavar="DIR")
    parser.add_argument("--parts", nargs="*", choices=PARTS, default=[*PARTS])
    options = parser.parse_args(arguments)
    options.output.mkdir(parents=True, exist_ok=True)
    with bridge(), storage() as address, nodes(NODES, environment(address)) as made:
        upload_digits(address)
        cluster = Cluster(made, options.output.absolute())
        for name, part in {"start": start, **{name: PARTS[name] for name in options.parts}}.items():
            row = json.dumps({"part": name, **part(cluster)})
            with (cluster.output / "rows.jsonl").open("a", encoding="utf-8") as rows:
                rows.write(f"{row}\n")
            print(row, flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
