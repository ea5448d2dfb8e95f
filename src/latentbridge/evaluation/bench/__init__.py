"""Standard benchmarks in their published file formats, for every model."""
