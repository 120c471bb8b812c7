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
import sys
from collections.abc import Sequence
from pathlib import Path

from cluster_nodes import SERVER, bridge, environment, nodes
from cluster_parts import NODES, PARTS, Cluster, start
from cluster_storage import keys, storage, upload_digits


def main(arguments: Sequence[str] | None = None) -> int:
    """Run what is asked for."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--output", type=Path, required=True, metavar="DIR")
    parser.add_argument("--parts", nargs="*", choices=PARTS, default=[*PARTS])
    options = parser.parse_args(arguments)
    options.output.mkdir(parents=True, exist_ok=True)
    with bridge(), storage(SERVER) as address, nodes(NODES, environment(keys(address))) as made:
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
