"""The verbs as tools of the Model Context Protocol, for assistants that look, draw, edit and search.

A tool asks the routes of its own app, inside the process and with the key its caller brought. So no verb is written twice,
keys, rates and limits count for tools as for every other client, and what is refused is refused in the same words.
"""

from __future__ import annotations

import asyncio
import base64
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from inspect import getdoc
from itertools import chain, islice
from pathlib import Path
from typing import Annotated, Any, Literal
from urllib.parse import quote

import httpx2
import numpy as np
from fastapi import FastAPI
from mcp.server import MCPServer
from mcp.server.mcpserver import Context
from mcp.server.mcpserver.exceptions import ToolError
from mcp.server.streamable_http_manager import StreamableHTTPASGIApp
from mcp.server.transport_security import TransportSecuritySettings
from mcp.types import CallToolResult, ContentBlock, ImageContent, TextContent, ToolAnnotations
from pydantic import Field, ValidationError
from starlette.routing import Route

import latentbridge
from latentbridge.errors import UserError, unknown_name
from latentbridge.serving.guard.callers import LocalCaller, RemoteCaller
from latentbridge.serving.guard.fetch import picture_bytes

PATH = "/mcp"
"""Where tools are served over HTTP."""

_BATCH = 64
"""Items added to an index at a time."""

PictureGiven = Annotated[str, Field(description="A picture, as the server's instructions say it is given.")]
SeedGiven = Annotated[int | None, Field(description="Same seed, same answer; one is made up where there is none.")]
Steps = Annotated[int, Field(description="Denoising steps: more is slower and finer.")]
Guidance = Annotated[float, Field(description="How strictly the words are followed, from 0 to 50.")]


@dataclass(frozen=True)
class Tools:
    """The tools of an app. Their signatures and docstrings are what assistants read."""

    app: FastAPI
    caller: RemoteCaller

    def server(self) -> MCPServer:
        """The protocol's side of it; one server for one transport."""
        server = _Server(
            "latentbridge",
            version=latentbridge.__version__,
            instructions=self.caller.told,
            log_level="WARNING",
            subscriptions=False,
        )
        for verb in (self.understand, self.draw, self.edit, self.embed, self.search, self.index, self.loopback):
            hints = ToolAnnotations(read_only_hint=verb != self.index, open_world_hint=False)
            server.add_tool(verb, description=getdoc(verb), annotations=hints)
        return server

    async def understand(
        self,
        ctx: Context,
        picture: PictureGiven,
        question: Annotated[str | None, Field(description="What to tell; a description unless given.")] = None,
        effort: Annotated[
            Literal["none", "low", "high"],
            Field(description="low asks for the steps before the answer, high for a long chain of them."),
        ] = "none",
    ) -> CallToolResult:
        """Answer a question about a picture, or describe it."""
        parts: list[dict[str, Any]] = [{"type": "image_url", "image_url": {"url": self._url(picture)}}]
        if question is not None:
            parts.append({"type": "text", "text": question})
        asked = {"messages": [{"role": "user", "content": parts}], "reasoning_effort": effort}
        answer = await self._ask(ctx, "/v1/chat/completions", json=asked)
        return _result(answer["choices"][0]["message"]["content"], *_warnings(answer))

    async def draw(
        self,
        ctx: Context,
        prompt: Annotated[str, Field(description="What to draw, in words.")],
        n: Annotated[int, Field(description="How many pictures, each of its own seed.")] = 1,
        seed: SeedGiven = None,
        steps: Steps = 20,
        guidance: Guidance = 2.5,
    ) -> CallToolResult:
        """Draw pictures of a prompt. The text beside each is its seed and the full description that was drawn."""
        asked = {"prompt": prompt, "n": n, "seed": seed, "steps": steps, "guidance": guidance}
        return self._pictures(await self._ask(ctx, "/v1/images/generations", json=asked))

    async def edit(
        self,
        ctx: Context,
        picture: PictureGiven,
        instruction: Annotated[str, Field(description='What to change, such as "make the circle green".')],
        seed: SeedGiven = None,
        steps: Steps = 20,
        guidance: Guidance = 2.5,
    ) -> CallToolResult:
        """Change a picture as told and keep the rest. The text is the seed and the description of what was drawn."""
        asked = {"prompt": instruction, "steps": str(steps), "guidance": str(guidance)}
        if seed is not None:
            asked["seed"] = str(seed)
        with _told():
            file = await picture_bytes(self._url(picture), self.app.state.service.fetching)
        return self._pictures(await self._ask(ctx, "/v1/images/edits", data=asked, files={"image": ("picture", file)}))

    async def embed(
        self,
        ctx: Context,
        texts: Annotated[Sequence[str], Field(description="Texts to embed.")] = (),
        pictures: Annotated[Sequence[str], Field(description="Pictures to embed, given as everywhere.")] = (),
    ) -> CallToolResult:
        """Turn texts and pictures into unit vectors of one space. The text tells every two's cosine; the vectors are the
        structured content, texts first."""
        inputs = [{"text": text} for text in texts] + [{"image": self._url(picture)} for picture in pictures]
        answer = await self._ask(ctx, "/v1/embeddings", json={"input": inputs})
        vectors = np.array([item["embedding"] for item in answer["data"]])
        names = [f"text {i + 1}" for i in range(len(texts))] + [f"picture {i + 1}" for i in range(len(pictures))]
        cosines = vectors @ vectors.T
        lines = [
            f"{names[i]} and {names[j]}: {cosines[i, j]:.3f}"
            for i in range(len(names))
            for j in range(i + 1, len(names))
        ]
        told = "\n".join(lines) or f"A vector of {vectors.shape[1]} numbers."
        return _result(told, *_warnings(answer), structured={"embeddings": vectors.tolist()})

    async def search(
        self,
        ctx: Context,
        index: Annotated[str, Field(description="The name of the index to search.")],
        words: Annotated[str | None, Field(description="What to look for.")] = None,
        picture: Annotated[str | None, Field(description="A picture to look for the like of.")] = None,
        like: Annotated[Sequence[str], Field(description="Ids of items to find more like.")] = (),
        avoid: Annotated[Sequence[str], Field(description="Words for what a hit should not be like.")] = (),
        where: Annotated[Sequence[str], Field(description="Conditions, such as kind=png or width>=640.")] = (),
        k: Annotated[int, Field(description="How many hits.")] = 10,
        allow_unknown: Annotated[
            bool, Field(description="Whether to rank by words of which the model knows none: a guess.")
        ] = False,
    ) -> CallToolResult:
        """Find pictures of an index by words, a picture, items of the index, or all of them together. Each line is a
        likeness (cosine) and an id, best first; a line before them names words that the model does not know."""
        query: list[dict[str, Any]] = [{"item": item} for item in like]
        query += [{"text": text, "weight": -0.5} for text in avoid]
        if words is not None:
            query.append({"text": words})
        if picture is not None:
            query.append({"image": self._url(picture)})
        asked = {"index": index, "query": query, "where": list(where), "k": k, "allow_unknown": allow_unknown}
        answer = await self._ask(ctx, "/v1/search", json=asked)
        hits, warnings = answer["data"], answer["warnings"]
        parts: list[str | ContentBlock] = list(warnings)
        for hit in hits:
            parts.append(f"{hit['score']:.3f}  {hit['id']}")
            if thumbnail := self.caller.thumbnail(hit):
                parts.append(_image(thumbnail))
        if not hits:
            parts.append("Nothing was found.")
        told = {"hits": hits, "warnings": warnings, "unknown_words": answer["unknown_words"]}
        return _result(*parts, structured=told)

    async def index(
        self,
        ctx: Context,
        name: Annotated[
            str | None, Field(description="Small letters, digits, - and _; all are listed without.")
        ] = None,
        add: Annotated[Sequence[str], Field(description="Pictures to add, given as everywhere.")] = (),
        remove: Annotated[Sequence[str], Field(description="Ids of items to take out.")] = (),
    ) -> CallToolResult:
        """List the indexes, or add pictures to one, which is made where there is none, and take items out."""
        cards = {card["id"]: card["items"] for card in (await self._ask(ctx, "/v1/index", "GET"))["data"]}
        if name is None:
            return _result("\n".join(f"{each}: {items} items" for each, items in cards.items()) or "There is no index.")
        if add and name not in cards:
            await self._ask(ctx, "/v1/index", json={"name": name})
        ids, left_out = list[str](), list[str]()
        items = self.caller.items(add, left_out.append)
        while batch := await asyncio.to_thread(lambda: list(islice(items, _BATCH))):
            await self._ask(ctx, f"/v1/index/{quote(name)}/items", json={"items": batch})
            ids += [item["id"] for item in batch]
            await ctx.report_progress(len(ids), message=f"{len(ids)} pictures added")
        if remove:
            await self._ask(ctx, f"/v1/index/{quote(name)}/items", "DELETE", params={"id": list(remove)})
        card = await self._ask(ctx, f"/v1/index/{quote(name)}", "GET")
        told = [f"{name} has {card['items']} items; {len(ids)} were added.", *(f"left out: {why}" for why in left_out)]
        return _result("\n".join(told), structured={"added": ids, "items": card["items"]})

    async def loopback(
        self,
        ctx: Context,
        picture: PictureGiven,
        rounds: Annotated[int, Field(description="How often to go round.")] = 4,
        seed: SeedGiven = None,
    ) -> CallToolResult:
        """Put a picture into words, draw the words, and again; see how far it drifts. The text beside each picture is the
        words it was drawn from and its likeness (cosine) to the first."""
        asked = {"image": self._url(picture), "rounds": rounds, "seed": seed}
        answer = await self._ask(ctx, "/v1/loopback", json=asked)
        shown = (
            self._shown(each["b64_json"], f"round {number}, likeness {each['to_origin']:.3f}: {each['words']}")
            for number, each in enumerate(answer["rounds"], 1)
        )
        return _result(*chain.from_iterable(shown), *_warnings(answer))

    # --- between tools and routes ---

    async def _ask(self, ctx: Context, path: str, method: str = "POST", **body: Any) -> Any:
        """What a route answers; a refusal is a ToolError in the route's words."""
        key = (ctx.headers or {}).get("authorization")
        transport = httpx2.ASGITransport(self.app, raise_app_exceptions=False)
        async with httpx2.AsyncClient(
            transport=transport, base_url="http://localhost", timeout=None, trust_env=False
        ) as client:
            answer = await client.request(method, path, headers={"Authorization": key} if key else {}, **body)
        if answer.status_code < 400:
            return answer.json()
        wait = answer.headers.get("retry-after")
        raise ToolError(answer.json()["error"]["message"] + (f" Come back in {wait} s." if wait else ""))

    def _url(self, picture: str) -> str:
        with _told():
            return self.caller.url(picture)

    def _pictures(self, answer: Any) -> CallToolResult:
        shown = (
            self._shown(each["b64_json"], f"seed {each['seed']}: {each['revised_prompt']}") for each in answer["data"]
        )
        return _result(*chain.from_iterable(shown), *_warnings(answer))

    def _shown(self, picture: str, told: str) -> tuple[ContentBlock, str]:
        """A picture (base64 of a PNG) and what is told of it."""
        with _told():
            path = self.caller.keep(base64.b64decode(picture))
        return _image(picture), f"{told}\nsaved as {path}" if path else told


class _Server(MCPServer):
    """The library's, which passes over arguments that nobody knows and tells of wrong ones in a dump of several lines."""

    async def call_tool(self, name: str, arguments: dict[str, Any], context: Any = None) -> Any:
        """As the library does it; raises ToolError with one sentence for arguments that a tool does not take."""
        known = {tool.name: tool.input_schema["properties"] for tool in await self.list_tools()}
        with _told():
            for argument in arguments if name in known else ():
                if argument not in known[name]:
                    raise unknown_name(f"argument of {name}", argument, known[name])
        try:
            return await super().call_tool(name, arguments, context)
        except ToolError as error:
            if not isinstance(error.__cause__, ValidationError):
                raise
            found = error.__cause__.errors()[0]
            where = ".".join(str(part) for part in found["loc"])
            raise ToolError(f"{name} cannot be called so: {where}: {found['msg']}.") from None


@contextmanager
def _told() -> Iterator[None]:
    """A user's mistake inside becomes what the assistant is told of it."""
    try:
        yield
    except UserError as error:
        raise ToolError(str(error)) from None


def _image(picture: str) -> ImageContent:
    return ImageContent(type="image", data=picture, mime_type="image/png")


def _warnings(answer: Any) -> list[str]:
    return [f"warning: {each}" for each in answer["warnings"]]


def _result(*parts: str | ContentBlock, structured: Any = None) -> CallToolResult:
    content = [TextContent(type="text", text=part) if isinstance(part, str) else part for part in parts]
    return CallToolResult(content=content, structured_content=structured)


def http_route(server: MCPServer, body_bytes: int) -> Route:
    """The route of the tools over HTTP, to be served while `server.session_manager.run()` does.

    Without sessions: a request is all a caller has, so nothing is kept between two, nobody can take over another's, and
    there is nothing to wait for by GET. Foreign pages and hosts are refused by `Guard`, as for all routes.
    """
    theirs = TransportSecuritySettings(enable_dns_rebinding_protection=False)
    server.streamable_http_app(stateless_http=True, max_request_body_size=body_bytes, transport_security=theirs)
    return Route(PATH, StreamableHTTPASGIApp(server.session_manager), methods=["POST"])


async def serve_stdio(app: FastAPI, folder: Path | None) -> None:
    """Serve the tools to the process that started this one, until it ends the conversation; the app is not listening."""
    async with app.router.lifespan_context(app):
        await Tools(app, LocalCaller(app.state.service.engine.model, folder)).server().run_stdio_async()
