"""The writer of a manifest from other formats (`other_formats.py`)."""

from __future__ import annotations

import json
import re
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path, PurePosixPath
from typing import Any

from latentbridge.data.folder_walk import FolderWalk
from latentbridge.data.own.manifest import check_fields
from latentbridge.data.own.other_formats import Sample, read_samples
from latentbridge.errors import UserError
from latentbridge.files import atomic_write, find_path

_LAST_NUMBER = re.compile(r"(\d+)\D*$")


def convert(
    sources: list[Path],
    out: Path | None,
    pictures: Path | None,
    *,
    split: str | None = None,
    on_fault: Callable[[str], None],
) -> tuple[Path, int]:
    """Write a manifest of the samples in other formats; return its path and its number of lines.

    `pictures` is the folder of the pictures, by default that of the first source; the manifest lies in it, or in a folder
    around it. `split` replaces the samples' own. `on_fault` gets a sentence per sample that is left out. Raise UserError if
    none is left.
    """
    home = pictures or (sources[0] if sources[0].is_dir() else sources[0].parent)
    if not home.is_dir():
        raise UserError(f"{home} is not a folder; give the folder of the pictures with --pictures.")
    out = out or home / "manifest.jsonl"
    if not home.resolve().is_relative_to(out.parent.resolve()):
        raise UserError(f"A manifest lies in the folder of its pictures, or around it; write it to {home / out.name}.")
    if out.exists():
        raise UserError(f"{out} exists already; choose another --out, or remove it.")
    finder = _PictureFinder(home, out.parent)
    lines: dict[str, dict[str, Any]] = {}
    for sample in read_samples(sources, on_fault):
        try:
            line = _line(sample, finder, split)
        except ValueError as error:
            on_fault(f"{sample.place} {error}")
            continue
        _merge(lines, line)
    if not lines:
        raise UserError(f"No sample of {', '.join(map(str, sources))} can be used; see the lines above.")
    with atomic_write(out) as temporary, temporary.open("w", encoding="utf-8", newline="\n") as file:
        file.writelines(json.dumps(line, ensure_ascii=False) + "\n" for line in lines.values())
    return out, len(lines)


def _line(sample: Sample, finder: _PictureFinder, split: str | None) -> dict[str, Any]:
    """Return a manifest's line; raise ValueError with the rest of a sentence about the sample."""
    if len(sample.pictures) != 1:
        raise ValueError(f"has {len(sample.pictures) or 'no'} pictures, and a line has one")
    line = {"image": finder.find(sample.pictures[0], sample.folder), **sample.fields}
    if isinstance(line.get("edit"), dict) and isinstance(target := line["edit"].get("target"), str):
        line["edit"] = {**line["edit"], "target": finder.find(target, sample.folder)}
    if split:
        line["split"] = split
    faults: list[str] = []
    check_fields(line, faults.append)
    if faults:
        raise ValueError(f"cannot be used: {faults[0]}")
    return line


def _merge(lines: dict[str, dict[str, Any]], line: dict[str, Any]) -> None:
    """Add a line unless it is there; texts of one picture share a line."""
    others = {name: value for name, value in line.items() if name != "texts"}
    key = json.dumps(others, sort_keys=True)
    known = lines.setdefault(key, line)
    if texts := line.get("texts"):
        known["texts"] = list(dict.fromkeys([*known.get("texts", []), *texts]))


class _PictureFinder:
    """The pictures below a folder, found by the names and ids that other formats give them."""

    def __init__(self, folder: Path, base: Path) -> None:
        """`base` is the folder that results are relative to."""
        self._folder, self._base = folder, base
        self._by_number: dict[int, list[Path]] | None = None

    def find(self, picture: str | int, folder: Path | None) -> str:
        """Return the path of a picture relative to `base`; raise ValueError with the rest of a sentence."""
        path = self._named(str(picture), folder or self._folder)
        if path is None and re.fullmatch(r"\d+", str(picture)):
            path = self._numbered(int(picture))
        if path is None:
            raise ValueError(f"names the picture {str(picture)[:200]}, which is not in {folder or self._folder}")
        try:
            return PurePosixPath(path.resolve().relative_to(self._base.resolve())).as_posix()
        except ValueError:
            return PurePosixPath(path.relative_to(self._base)).as_posix()  # behind a link

    def _named(self, name: str, folder: Path) -> Path | None:
        """Return the file of this name; folders that its path begins with may be missing here."""
        parts = [part for part in PurePosixPath(name.replace("\\", "/")).parts if part not in ("/", ".", "..")]
        for start in range(len(parts)):
            path = find_path(folder.joinpath(*parts[start:]))
            try:
                if path.is_file():
                    return path
            except (OSError, ValueError):  # too long for a name, or with NUL
                return None
        return None

    def _numbered(self, number: int) -> Path | None:
        """Return the only file whose name ends in a number, as COCO's do."""
        if self._by_number is None:
            self._by_number = defaultdict(list)
            for found in FolderWalk(self._folder).pictures(lambda sentence: None):
                if match := _LAST_NUMBER.search(found.path.stem):
                    self._by_number[int(match[1])].append(found.path)
        paths = self._by_number.get(number, [])
        if len(paths) > 1:
            raise ValueError(f"names the picture {number}, which may be {paths[0]} or {paths[1]}; give their folder")
        return paths[0] if paths else None
