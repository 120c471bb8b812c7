"""Train on a Ray cluster; takes what `rtk train` takes.

ray job submit --runtime-env jobs/runtime_env.yaml -- python jobs/train.py digits_demo train.workers=2
"""

import sys

from rtk.cli import main

if __name__ == "__main__":
    sys.exit(main(["train", *sys.argv[1:]]))
