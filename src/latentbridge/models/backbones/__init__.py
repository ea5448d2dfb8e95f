"""Models beside OmniBridge that fulfil the same contract: Janus-Pro, BAGEL, Harmon; loading of releases."""
