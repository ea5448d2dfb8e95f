"""`python -m latentbridge`, which `torchrun -m latentbridge` starts."""

from latentbridge.cli import main

main()
