"""The indexes a server keeps, by name: folders inside one folder, or tables of one database."""

from __future__ import annotations

import threading
from pathlib import Path

from latentbridge.errors import UserError
from latentbridge.models.checkpoint import fingerprint
from latentbridge.models.omnibridge.model import Model
from latentbridge.retrieval.index import Index
from latentbridge.retrieval.items import check_name
from latentbridge.retrieval.stores import address_in, create_index, names_in, open_index
from latentbridge.search import check_maker
from latentbridge.serving.refusals import Refusal


class Shelf:
    """Indexes of the vectors of one model, opened when first asked for; threads may share it."""

    def __init__(self, place: str | Path | None, model: Model):
        self._place = place
        self._model = model
        self._lock = threading.Lock()
        self._open: dict[str, Index] = {}

    def names(self) -> list[str]:
        """All indexes there are."""
        return [] if self._place is None else names_in(self._place)

    def index(self, name: str) -> Index:
        """An index that is there; raises a 404 where none is."""
        check_name(name)
        with self._lock:
            if name not in self._open:
                if name not in self.names():
                    raise Refusal(404, f"There is no index {name!r}; POST /v1/index makes one.", "index_not_found")
                index = open_index(self._address(name))
                check_maker(self._model, index, name)
                self._open[name] = index
            return self._open[name]

    def create(self, name: str) -> Index:
        """A new index; raises a 409 where the name is taken."""
        with self._lock:
            if name in self.names():
                raise Refusal(409, f"There is an index {name!r} already; choose another name.", "index_exists")
            place = self._address(name)
            self._open[name] = create_index(place, self._model.embedding_size, fingerprint(self._model))
            return self._open[name]

    def close(self) -> None:
        """Let go of all files."""
        with self._lock:
            for index in self._open.values():
                index.close()
            self._open.clear()

    def _address(self, name: str) -> str | Path:
        if self._place is None:
            raise UserError("This server keeps no indexes; start it with --indexes FOLDER.")
        return address_in(self._place, name)
