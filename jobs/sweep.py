"""Search for hyper-parameters on a Ray cluster; takes what `rtk sweep` takes.

ray job submit --runtime-env jobs/runtime_env.yaml -- python jobs/sweep.py search_spaces/sure_plus.yaml RECIPE
"""

import sys

from rtk.cli import main

if __name__ == "__main__":
    sys.exit(main(["sweep", *sys.argv[1:]]))
