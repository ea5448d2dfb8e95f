"""Studies carried out: what is to be run, one process a run, and what came of it as `docs/results.md`."""
