"""The indexes a server keeps, by name: folders inside one folder, or tables of one database."""

from __future__ import annotations

import logging
import threading
from pathlib import Path

from latentbridge.errors import StorageError, UserError
from latentbridge.models.checkpoint import fingerprint
from latentbridge.models.unified import UnifiedModel
from latentbridge.query import check_index_model
from latentbridge.retrieval.base_index import Index
from latentbridge.retrieval.index_factory import create_index, index_address, list_index_names, open_index
from latentbridge.retrieval.validation import check_index_name
from latentbridge.serving.api_errors import ApiError

_log = logging.getLogger(__name__)


class IndexRegistry:
    """Indexes of the vectors of one model, opened when first asked for; threads may share it."""

    def __init__(self, place: str | Path | None, model: UnifiedModel, most: int):
        self._place = place
        self._model = model
        self._most = most
        self._lock = threading.Lock()
        self._open: dict[str, Index] = {}

    def names(self) -> list[str]:
        """All indexes there are."""
        return [] if self._place is None else list_index_names(self._place)

    def index(self, name: str) -> Index:
        """An index that is there; raises a 404 where none is, and a 400 where it cannot be used, as the log then tells."""
        check_index_name(name)
        with self._lock:
            if name not in self._open:
                if name not in self.names():
                    raise ApiError(404, f"There is no index {name!r}; make it first.", "index_not_found")
                try:
                    self._open[name] = self._opened(name)
                except StorageError:
                    raise
                except UserError as error:
                    _log.warning("The index %s cannot be used: %s", name, error)
                    told = f"The index {name!r} cannot be used with this model; the server's log tells why."
                    raise ApiError(400, told, "index_unusable") from None
            return self._open[name]

    def create(self, name: str) -> Index:
        """A new index; raises a 409 where the name is taken."""
        with self._lock:
            there = self.names()
            if name in there:
                raise ApiError(409, f"There is an index {name!r} already; choose another name.", "index_exists")
            if len(there) >= self._most:
                raise ApiError(
                    409, f"The server keeps {self._most} indexes at most; use one of them.", "too_many_indexes"
                )
            place = self._address(name)
            self._open[name] = create_index(place, self._model.embedding_size, fingerprint(self._model))
            return self._open[name]

    def close(self) -> None:
        """Let go of all files."""
        with self._lock:
            for index in self._open.values():
                index.close()
            self._open.clear()

    def _opened(self, name: str) -> Index:
        index = open_index(self._address(name))
        try:
            check_index_model(self._model, index, name)
        except UserError:
            index.close()
            raise
        return index

    def _address(self, name: str) -> str | Path:
        if self._place is None:
            raise UserError("This server keeps no indexes; start it with --indexes FOLDER.")
        return index_address(self._place, name)
