"""The indexes of a server, by name: folders inside one folder, or tables of one database."""

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
    """The indexes of one model, opened on first use; thread-safe."""

    def __init__(self, location: str | Path | None, model: UnifiedModel, max_indexes: int):
        self._location = location
        self._model = model
        self._max_indexes = max_indexes
        self._lock = threading.Lock()
        self._open: dict[str, Index] = {}

    def names(self) -> list[str]:
        """Return the names of all indexes."""
        return [] if self._location is None else list_index_names(self._location)

    def index(self, name: str) -> Index:
        """Return an index; raises a 404 if it does not exist, and a 400 if it cannot be used, with the reason in the log."""
        check_index_name(name)
        with self._lock:
            if name not in self._open:
                if name not in self.names():
                    raise ApiError(404, f"There is no index {name!r}; create it first.", "index_not_found")
                try:
                    self._open[name] = self._load(name)
                except StorageError:
                    raise
                except UserError as error:
                    _log.warning("The index %s cannot be used: %s", name, error)
                    message = f"The index {name!r} cannot be used with this model; the server's log has the reason."
                    raise ApiError(400, message, "index_unusable") from None
            return self._open[name]

    def create(self, name: str) -> Index:
        """Create an index; raises a 409 if the name is taken or the limit is reached."""
        with self._lock:
            names = self.names()
            if name in names:
                raise ApiError(409, f"There is an index {name!r} already; choose another name.", "index_exists")
            if len(names) >= self._max_indexes:
                message = f"The server keeps {self._max_indexes} indexes at most; use one of them."
                raise ApiError(409, message, "too_many_indexes")
            self._open[name] = create_index(self._address(name), self._model.embedding_size, fingerprint(self._model))
            return self._open[name]

    def close(self) -> None:
        """Close all indexes."""
        with self._lock:
            for index in self._open.values():
                index.close()
            self._open.clear()

    def _load(self, name: str) -> Index:
        index = open_index(self._address(name))
        try:
            check_index_model(self._model, index, name)
        except UserError:
            index.close()
            raise
        return index

    def _address(self, name: str) -> str | Path:
        if self._location is None:
            raise UserError("This server keeps no indexes; start it with --indexes FOLDER.")
        return index_address(self._location, name)
