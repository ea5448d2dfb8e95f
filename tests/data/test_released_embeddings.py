from __future__ import annotations

import json
from pathlib import Path

from latentbridge.data.released_embeddings import embedding_id

FIXTURE = Path(__file__).parents[1] / "golden" / "latentumm" / "fixture.json"


def test_ids_equal_the_released_ones() -> None:
    checked = 0
    for case in json.loads(FIXTURE.read_text())["cases"]["index"]:
        place = case["data_indexes"]
        if isinstance(place, dict):  # the release also takes a row's whole record, a bare number, and nothing
            place = place["data_indexes"]
        if isinstance(place, list):
            assert embedding_id(place, case["rows_per_parquet"], case["row_group_size"]) == case["id"]
            checked += 1
    assert checked == 6


def test_files_share_ids_unless_their_length_is_told() -> None:
    assert embedding_id([2, 3, 5]) == embedding_id([7, 3, 5]) == 305
    assert embedding_id([2, 3, 5], rows_per_file=1000, rows_per_group=11) == 2038
