"""Evaluate on a Ray cluster; takes what `rtk evaluate` takes.

ray job submit --runtime-env jobs/runtime_env.yaml -- python jobs/evaluate.py RUN --ood near:cats=s3://bucket/cats
"""

import sys

from rtk.cli import main

if __name__ == "__main__":
    sys.exit(main(["evaluate", *sys.argv[1:]]))
