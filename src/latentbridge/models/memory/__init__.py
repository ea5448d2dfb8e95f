"""Device and host memory of a verb, computed from sizes alone before anything is downloaded or loaded."""
