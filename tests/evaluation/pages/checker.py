"""Checks of HTML pages: well-formed, without scripts and without outside requests."""

from __future__ import annotations

import re
from html.parser import HTMLParser
from pathlib import Path

VOID = {"meta", "img", "br", "line", "circle", "path", "input"}
"""Elements without content; SVG elements are self-closing."""


class Checker(HTMLParser):
    """Collects what a page holds and refuses tags that do not close in order."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.seen: dict[str, int] = {}
        self.sources: list[str] = []
        self.text = ""

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.seen[tag] = self.seen.get(tag, 0) + 1
        self.sources += [
            value or "" for name, value in attrs if name in ("src", "href", "srcset", "data", "xlink:href")
        ]
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        assert tag in VOID
        self.seen[tag] = self.seen.get(tag, 0) + 1

    def handle_endtag(self, tag: str) -> None:
        assert self.open and self.open.pop() == tag, f"</{tag}> closes nothing"

    def handle_data(self, data: str) -> None:
        self.text += data


def check(path: Path) -> Checker:
    checker = Checker()
    page = path.read_text(encoding="utf-8")
    checker.feed(page)
    checker.close()
    assert checker.open == []
    assert "script" not in checker.seen and "link" not in checker.seen and "iframe" not in checker.seen
    assert all(source.startswith(("#", "data:image/png;base64,")) for source in checker.sources)
    assert not re.search(r"url\(|@import", page)
    return checker
