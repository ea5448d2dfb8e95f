"""Entry point of `python -m latentbridge` and `torchrun -m latentbridge`."""

from latentbridge.cli import main

main()
