"""Entry point of the program `latentbridge`, of `python -m latentbridge` and of `torchrun -m latentbridge`."""

import sys

from latentbridge.import_path import import_path


def run() -> None:
    """Run one command with nothing imported from the current folder."""
    sys.path[:] = import_path()
    from latentbridge.cli import main

    main()


if __name__ == "__main__":
    run()
