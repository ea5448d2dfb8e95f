"""The MCP tools through the protocol's own client: over HTTP to a real server, over stdio to a real process."""

from __future__ import annotations

import asyncio
import base64
import os
import sys
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any, Literal

import httpx2
import numpy as np
import pytest
from mcp import Client, StdioServerParameters
from mcp.client.streamable_http import streamable_http_client
from mcp.types import CallToolResult, ImageContent, TextContent
from PIL import Image
from tests.serving.conftest import png_of
from tests.serving.server import Server, running

from latentbridge.cli import main
from latentbridge.images import open_picture
from latentbridge.models.omnibridge.modeling_omnibridge import OmniBridge
from latentbridge.serving.api import create_app
from latentbridge.serving.guard.keys import ENVIRONMENT, read_keys
from latentbridge.serving.guard.limits import Limits
from latentbridge.serving.guard.rates import Allowance, Rates
from latentbridge.serving.settings import Settings
from latentbridge.types import Picture

TOOLS = ["understand", "draw", "edit", "embed", "search", "index", "loopback"]
KEYS = {"ada": "ada-" + "k" * 20, "bob": "bob-" + "k" * 20}
Talk = Callable[[Client], Awaitable[Any]]


@pytest.fixture(scope="module")
def keyed(served_model: OmniBridge, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server with keys, indexes, and a limit of two loopbacks a minute."""
    keys = read_keys(None, {ENVIRONMENT: ",".join(f"{name}:{key}" for name, key in KEYS.items())})
    settings = Settings(indexes=tmp_path_factory.mktemp("indexes"))
    app = create_app(served_model, settings, keys=keys, rates=Rates({"loopback": Allowance(requests=2)}))
    with running(app, Limits()) as started:
        yield started


def over_http(server: Server, key: str | None, talk: Talk, mode: Literal["auto", "legacy"] = "auto") -> Any:
    async def work() -> Any:
        headers = {"Authorization": f"Bearer {key}"} if key else {}
        async with (
            httpx2.AsyncClient(headers=headers, timeout=120) as http,
            Client(
                streamable_http_client(f"http://127.0.0.1:{server.port}/mcp", http_client=http), mode=mode
            ) as client,
        ):
            return await talk(client)

    return asyncio.run(work())


def words(result: CallToolResult) -> str:
    assert not result.is_error, result.content
    return "\n".join(block.text for block in result.content if isinstance(block, TextContent))


def pictures(result: CallToolResult) -> list[Picture]:
    blocks = [block for block in result.content if isinstance(block, ImageContent)]
    assert not result.is_error and all(block.mime_type == "image/png" for block in blocks), result.content
    return [open_picture(base64.b64decode(block.data)) for block in blocks]


def error_of(result: CallToolResult) -> str:
    block = result.content[0]
    assert result.is_error and isinstance(block, TextContent), result.content
    return block.text


# --- over HTTP ---


def test_tools_over_http_do_what_the_library_does(
    keyed: Server, served_model: OmniBridge, picture_url: str, scene_picture: Picture
):
    async def talk(client: Client) -> None:
        tools = (await client.list_tools()).tools
        assert [tool.name for tool in tools] == TOOLS and all(tool.description for tool in tools)
        reply = await client.call_tool("understand", {"picture": picture_url, "question": "Describe the picture."})
        assert words(reply) == served_model.understand(scene_picture, "Describe the picture.")
        drawn = await client.call_tool("draw", {"prompt": "a red circle", "seed": 7, "steps": 2})
        assert np.array_equal(pictures(drawn)[0], served_model.generate("a red circle", seed=7, steps=2).picture)
        assert words(drawn).startswith("seed 7: ")
        edited = await client.call_tool(
            "edit", {"picture": picture_url, "instruction": "make it red", "seed": 3, "steps": 2}
        )
        assert np.array_equal(
            pictures(edited)[0], served_model.edit(scene_picture, "make it red", seed=3, steps=2).picture
        )
        embedded = await client.call_tool("embed", {"texts": ["a star"], "pictures": [picture_url]})
        text, picture = (np.array(row) for row in (embedded.structured_content or {})["embeddings"])
        assert np.allclose(text, served_model.embed(texts="a star"), atol=1e-6)
        assert words(embedded) == f"text 1 and picture 1: {text @ picture:.3f}"

    over_http(keyed, KEYS["ada"], talk)


@pytest.mark.parametrize(
    ("tool", "arguments", "message"),
    [
        ("understand", {}, "Invalid arguments of understand: picture: Field required."),
        ("understand", {"picture": 5}, "Invalid arguments of understand: picture: Input should be a valid string."),
        ("understand", {"picture": "x", "bogus": 1}, "Unknown argument of understand 'bogus'; choose one of: effort,"),
        (
            "index",
            {"index": "pets", "add": ["pics"]},
            "Unknown argument of index 'index'; choose one of: add, name, rem",
        ),
    ],
)
def test_invalid_arguments_are_rejected_in_one_sentence(
    keyed: Server, tool: str, arguments: dict[str, Any], message: str
):
    async def talk(client: Client) -> None:
        error = error_of(await client.call_tool(tool, arguments))
        assert message in error and "\n" not in error and "pydantic" not in error

    over_http(keyed, KEYS["ada"], talk)


def test_without_the_key_there_are_no_tools(keyed: Server):
    async def talk(client: Client) -> None:
        await client.list_tools()

    for key in (None, KEYS["ada"] + "x"):
        with pytest.raises(Exception) as caught:
            over_http(keyed, key, talk)
        assert "error response" in _all_words(caught.value)
    assert keyed.ask("POST", "/mcp", b"{}", "Content-Type: application/json").status == 401


def test_the_older_protocol_is_served_behind_keys_too(keyed: Server):
    async def talk(client: Client) -> None:
        assert [tool.name for tool in (await client.list_tools()).tools] == TOOLS
        assert "picture 1" not in words(await client.call_tool("embed", {"texts": ["a star", "a circle"]}))

    over_http(keyed, KEYS["bob"], talk, mode="legacy")


def _all_words(error: BaseException) -> str:
    inner = error.exceptions if isinstance(error, BaseExceptionGroup) else ()
    return " ".join([repr(error), *map(_all_words, inner)])


def test_a_tool_counts_against_the_rate_of_its_callers_key(keyed: Server, picture_url: str):
    async def thrice(client: Client) -> list[CallToolResult]:
        walk = {"picture": picture_url, "rounds": 99}  # too many, which the route rejects after the rate was counted
        return [await client.call_tool("loopback", walk) for _ in range(3)]

    errors = [error_of(result) for result in over_http(keyed, KEYS["ada"], thrice)]
    assert all("99" in error for error in errors[:2])
    assert "Retry in" in errors[2] and "loopback" in errors[2]
    assert "99" in error_of(over_http(keyed, KEYS["bob"], thrice)[0])


def test_over_http_no_file_is_read_or_written(keyed: Server, tmp_path: Path, scene_picture: Picture):
    path = tmp_path / "here.png"
    path.write_bytes(png_of(scene_picture))

    async def talk(client: Client) -> None:
        for path_text in (str(path), path.as_uri(), "here.png"):
            assert "data URL" in error_of(await client.call_tool("understand", {"picture": path_text}))
            assert "data URL" in error_of(
                await client.call_tool("edit", {"picture": path_text, "instruction": "make it red"})
            )
            assert "data URL" in error_of(await client.call_tool("index", {"name": "stolen", "add": [path_text]}))
        drawn = await client.call_tool("draw", {"prompt": "a star", "seed": 1, "steps": 1})
        assert "saved" not in words(drawn)

    over_http(keyed, KEYS["ada"], talk)


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{",
        b"NaN",
        b"[" * 100_000,
        b"[]",
        b'{"jsonrpc": "2.0"}',
        b'{"jsonrpc": "2.0", "id": 1, "method": "x" ',
        b"\xff",
    ],
    ids=["empty", "cut", "nan", "deep", "list", "no-method", "open", "binary"],
)
def test_an_invalid_message_is_rejected(keyed: Server, body: bytes):
    accepted = "Accept: application/json, text/event-stream"
    key = f"Authorization: Bearer {KEYS['ada']}"
    assert 400 <= keyed.ask("POST", "/mcp", body, "Content-Type: application/json", accepted, key).status < 500
    assert keyed.ask("GET", "/mcp", b"", accepted, key).status == 405
    assert keyed.lives()


def test_pictures_are_indexed_found_and_deleted_over_http(keyed: Server, three_pictures: list[Picture]):
    urls = ["data:image/png;base64," + base64.b64encode(png_of(picture)).decode() for picture in three_pictures]

    async def talk(client: Client) -> None:
        added = await client.call_tool("index", {"name": "scenes", "add": urls})
        ids = (added.structured_content or {})["added"]
        assert len(set(ids)) == 3 and "scenes: 3 items" in words(await client.call_tool("index", {}))
        hits = await client.call_tool("search", {"index": "scenes", "picture": urls[1], "k": 2})
        assert [line.split()[1] for line in words(hits).splitlines()][0] == ids[1]
        assert words(hits).startswith("1.000") and not pictures(hits)
        more = await client.call_tool("search", {"index": "scenes", "like": [ids[1]], "words": "a star", "k": 3})
        assert ids[1] not in words(more) and len(words(more).splitlines()) == 2
        await client.call_tool("index", {"name": "scenes", "remove": ids[:2]})
        left = await client.call_tool("search", {"index": "scenes", "words": "a star"})
        assert [hit["id"] for hit in (left.structured_content or {})["hits"]] == ids[2:]
        partly = await client.call_tool("search", {"index": "scenes", "words": "a zxqv star"})
        assert words(partly) == f'The model does not know "zxqv"; ranked by the rest.\n{words(left)}'
        query = {"index": "scenes", "words": "zxqv"}
        unknown = await client.call_tool("search", query)
        assert "no word" in words(unknown) and words(unknown).endswith("Nothing was found.")
        assert (unknown.structured_content or {})["unknown_words"] == ["zxqv"]
        guess = await client.call_tool("search", query | {"allow_unknown": True})
        assert [hit["id"] for hit in (guess.structured_content or {})["hits"]] == ids[2:]
        for name in ("../scenes", "/etc", "a b", ""):
            assert error_of(await client.call_tool("index", {"name": name, "add": urls}))
            assert error_of(await client.call_tool("search", {"index": name, "words": "a star"}))
        assert "words" in error_of(await client.call_tool("search", {"index": "scenes", "avoid": ["a star"]}))

    over_http(keyed, KEYS["ada"], talk)


# --- over stdio ---


def test_over_stdio_an_assistant_works_with_files(
    tmp_path: Path, served_model: OmniBridge, scene_picture: Picture, three_pictures: list[Picture]
):
    shown, out, album = tmp_path / "shown.png", tmp_path / "out", tmp_path / "album"
    shown.write_bytes(png_of(scene_picture))
    album.mkdir()
    for number, picture in enumerate(three_pictures):
        (album / f"{number}.png").write_bytes(png_of(picture))
    (album / "broken.png").write_bytes(b"\x89PNG no more")
    out.mkdir()
    (out / "picture-1.png").write_bytes(b"mine")
    arguments = ["-m", "latentbridge", "mcp", "--out", str(out), "--indexes", str(tmp_path / "indexes")]
    process = StdioServerParameters(command=sys.executable, args=arguments, env=dict(os.environ))

    async def talk() -> None:
        async with Client(process) as client:
            assert [tool.name for tool in (await client.list_tools()).tools] == TOOLS
            reply = await client.call_tool("understand", {"picture": str(shown), "question": "Describe the picture."})
            assert words(reply) == served_model.understand(scene_picture, "Describe the picture.")
            drawn = await client.call_tool("draw", {"prompt": "a red circle", "seed": 7, "steps": 2})
            saved = out / "picture-2.png"
            assert words(drawn).endswith(f"saved as {saved}") and (out / "picture-1.png").read_bytes() == b"mine"
            assert np.array_equal(np.asarray(Image.open(saved)), pictures(drawn)[0])
            edited = await client.call_tool("edit", {"picture": str(saved), "instruction": "make it blue", "steps": 2})
            assert len(pictures(edited)) == 1 and (out / "picture-3.png").is_file()
            walked = await client.call_tool("loopback", {"picture": str(shown), "rounds": 1, "seed": 1})
            assert len(pictures(walked)) == 1 and "likeness" in words(walked)
            added = await client.call_tool("index", {"name": "album", "add": [str(album)]})
            assert (added.structured_content or {})["items"] == 3 and "left out: " in words(added)
            query = {"index": "album", "picture": str(album / "2.png"), "k": 1}
            hits = await client.call_tool("search", query)
            assert words(hits) == f"1.000  {album / '2.png'}" and pictures(hits)[0].shape == (160, 160, 3)
            assert "no picture" in error_of(
                await client.call_tool("understand", {"picture": str(tmp_path / "none.png")})
            )
            assert "empty" in error_of(await client.call_tool("draw", {"prompt": " "}))

    asyncio.run(talk())


# --- the command ---


def test_a_folder_that_cannot_be_written_is_refused_before_the_model_is_loaded(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    (tmp_path / "file").write_text("")
    with pytest.raises(SystemExit) as ended:
        main(["mcp", "--out", str(tmp_path / "file")])
    assert ended.value.code == 2 and "is a file, not a folder" in capsys.readouterr().err
