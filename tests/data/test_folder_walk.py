"""Walks through folders as people have them: links, unreadable places, other systems' files, captions beside pictures."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from latentbridge.data.folder_walk import FolderWalk, FoundPicture, read_sidecars


def lay(folder: Path, *names: str) -> None:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(b"x")


def walked(walk: FolderWalk) -> tuple[list[str], list[str]]:
    """Return the pictures' names relative to the folder, and the sentences."""
    sentences: list[str] = []
    found = [picture.path.relative_to(walk.folder).as_posix() for picture in walk.pictures(sentences.append)]
    return found, sentences


def deny(monkeypatch: pytest.MonkeyPatch, denied: Path) -> None:
    """Let a folder be listed by nobody, the superuser included."""
    scandir = os.scandir

    def refusing(path: str | os.PathLike[str] = ".") -> object:
        if Path(path) == denied:
            raise PermissionError(13, "Permission denied", str(path))
        return scandir(path)

    monkeypatch.setattr(os, "scandir", refusing)


def test_a_linked_folder_is_entered_once_and_never_in_a_circle(tmp_path: Path):
    album, other = tmp_path / "album", tmp_path / "other"
    lay(album, "a.png", "own/b.png")
    lay(other, "c.png", "deep/d.png")
    (album / "linked").symlink_to(other)
    (album / "linked_again").symlink_to(other / "deep")
    (album / "own_again").symlink_to(album / "own")
    (album / "own" / "self").symlink_to(album)
    (other / "deep" / "back").symlink_to(other)
    assert walked(FolderWalk(album)) == (["a.png", "linked/c.png", "linked/deep/d.png", "own/b.png"], [])


def test_a_link_to_a_folder_around_is_named_and_not_followed(tmp_path: Path):
    lay(tmp_path, "outside.png", "album/a.png")
    (tmp_path / "album" / "up").symlink_to(tmp_path)
    found, (sentence,) = walked(FolderWalk(tmp_path / "album"))
    assert found == ["a.png"] and "album/up is a link to a folder around" in sentence


def test_folders_of_links_alone_have_pictures(tmp_path: Path):
    lay(tmp_path, "other/a.png")
    (tmp_path / "album").mkdir()
    (tmp_path / "album" / "linked").symlink_to("../other")
    assert walked(FolderWalk(tmp_path / "album"))[0] == ["linked/a.png"]


def test_a_folder_that_cannot_be_listed_and_a_link_to_nowhere_are_unread(tmp_path: Path, monkeypatch):
    lay(tmp_path, "a.png", "x/b.png", "y/c.png")
    (tmp_path / "gone").symlink_to(tmp_path / "unmounted")
    (tmp_path / ".#lock").symlink_to("someone@host.1")  # as editors make them
    deny(monkeypatch, tmp_path / "x")
    walk = FolderWalk(tmp_path)
    found, sentences = walked(walk)
    assert found == ["a.png", "y/c.png"]
    assert walk.unread == [tmp_path / "gone", tmp_path / "x"]
    assert "gone is a link whose target cannot be reached" in sentences[0]
    assert "x cannot be listed (Permission denied)" in sentences[1]


def test_other_files_are_counted_by_suffix(tmp_path: Path):
    lay(
        tmp_path, "a.HEIC", "b.jfif", "c.mov", "d.MOV", "notes.txt", ".DS_Store", "._a.png", ".latentbridge-index/items"
    )
    walk = FolderWalk(tmp_path)
    assert walked(walk)[0] == ["a.HEIC", "b.jfif"]
    assert walk.passed_over == {".mov": 2, ".txt": 1, ".DS_Store": 1, "._*": 1}


def test_captions_and_metadata_beside_a_picture_are_read(tmp_path: Path):
    lay(tmp_path, "000.jpg", "001.jpg")
    (tmp_path / "000.txt").write_bytes(b"\xef\xbb\xbfan owl\r\n")
    (tmp_path / "000.json").write_text('{"url": "http://x/owl.jpg", "width": 640}')
    walk = FolderWalk(tmp_path)
    first, second = walk.pictures(pytest.fail)
    assert read_sidecars(first) == {"url": "http://x/owl.jpg", "width": 640, "texts": ["an owl"]}
    assert read_sidecars(second) == {} and not walk.passed_over


@pytest.mark.parametrize(
    ("name", "data", "words"),
    [
        ("a.json", b"[1]", "one JSON object"),
        ("a.json", b'{"x": 1e999}', "too large"),
        ("a.json", b"{", "not JSON"),
        ("a.txt", b"caf\xe9", "not UTF-8"),
        ("a.txt", b"a\0b", "NUL"),
    ],
)
def test_an_unusable_file_beside_a_picture_is_named(tmp_path: Path, name: str, data: bytes, words: str):
    (tmp_path / name).write_bytes(data)
    with pytest.raises(ValueError, match=rf"{name}.*{words}"):
        read_sidecars(FoundPicture(tmp_path / "a.png", (name,)))


def test_labels_with_a_picture_inside_are_not_metadata(tmp_path: Path):
    (tmp_path / "a.json").write_text('{"imageData": "' + "A" * 70_000 + '"}')
    assert read_sidecars(FoundPicture(tmp_path / "a.png", ("a.json",))) == {}
