"""Which stored embedding LatentUMM's release reads for a row of its training set."""

from __future__ import annotations

from collections.abc import Sequence


def embedding_id(place: Sequence[int], rows_per_file: int = 0, rows_per_group: int = 100) -> int:
    """The number in the name of the JSON file of a row at `place`: (parquet file, row group, row), or (id,) itself.

    As released, defect included: `rows_per_file` is 0 unless told, so all files but the first share its ids, and the
    release counts files within a worker's shuffled shard. It is right for one file only. Source: spec LatentUMM 1.6.
    """
    if len(place) == 1:
        return place[0]
    file, group, row = place
    return file * rows_per_file + group * rows_per_group + row
