"""``python -m lanner.train``: ``lanner train``, for launchers that start modules, such as torchrun."""

import sys

from lanner.cli.main import main

if __name__ == "__main__":
    main(["train", *sys.argv[1:]])
