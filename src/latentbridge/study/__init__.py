"""Studies: plans of runs, one process per run, and their results as `docs/results.md`."""
