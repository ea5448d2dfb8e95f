"""The skills as tools of the Model Context Protocol (MCP).

A tool calls the routes of its own app in-process, with its caller's key. So no skill is implemented twice; keys, rates and
limits apply to tools as to all clients, and errors have the same messages.
"""

from __future__ import annotations

import asyncio
import base64
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from inspect import getdoc
from itertools import chain, combinations, islice
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
"""The path of the tools over HTTP."""

_BATCH = 64
"""Items added to an index per request."""

PictureArgument = Annotated[str, Field(description="A picture, in a form that the server's instructions name.")]
SeedArgument = Annotated[int | None, Field(description="The same seed gives the same answer; random by default.")]
Steps = Annotated[
    int | None, Field(description="Denoising steps: more is slower and finer; the model's own by default.")
]
Guidance = Annotated[float | None, Field(description="Guidance scale, 0 to 50; the model's own by default.")]


@dataclass(frozen=True)
class Tools:
    """The tools of an app; assistants read their signatures and docstrings."""

    app: FastAPI
    caller: RemoteCaller

    def server(self) -> MCPServer:
        """Return an MCP server of the tools, for one transport."""
        server = _Server(
            "latentbridge",
            version=latentbridge.__version__,
            instructions=self.caller.instructions,
            log_level="WARNING",
            subscriptions=False,
        )
        for tool in (self.understand, self.draw, self.edit, self.embed, self.search, self.index, self.loopback):
            hints = ToolAnnotations(read_only_hint=tool != self.index, open_world_hint=False)
            server.add_tool(tool, description=getdoc(tool), annotations=hints)
        return server

    async def understand(
        self,
        ctx: Context,
        picture: PictureArgument,
        question: Annotated[str | None, Field(description="A question; by default the picture is described.")] = None,
        effort: Annotated[
            Literal["none", "low", "high"],
            Field(description="low asks for steps before the answer, high for a long chain of them."),
        ] = "none",
    ) -> CallToolResult:
        """Answer a question about a picture, or describe it."""
        parts: list[dict[str, Any]] = [{"type": "image_url", "image_url": {"url": self._url(picture)}}]
        if question is not None:
            parts.append({"type": "text", "text": question})
        body = {"messages": [{"role": "user", "content": parts}], "reasoning_effort": effort}
        response = await self._request(ctx, "/v1/chat/completions", json=body)
        return _result(response["choices"][0]["message"]["content"], *_warnings(response))

    async def draw(
        self,
        ctx: Context,
        prompt: Annotated[str, Field(description="What to draw, in words.")],
        n: Annotated[int, Field(description="Number of pictures, each with its own seed.")] = 1,
        seed: SeedArgument = None,
        steps: Steps = None,
        guidance: Guidance = None,
    ) -> CallToolResult:
        """Draw pictures of a prompt. The text beside each is its seed and the full description that was drawn."""
        body = {"prompt": prompt, "n": n, "seed": seed, "steps": steps, "guidance": guidance}
        return self._pictures(await self._request(ctx, "/v1/images/generations", json=body))

    async def edit(
        self,
        ctx: Context,
        picture: PictureArgument,
        instruction: Annotated[str, Field(description='What to change, such as "make the circle green".')],
        seed: SeedArgument = None,
        steps: Steps = None,
        guidance: Guidance = None,
    ) -> CallToolResult:
        """Change a picture as instructed and keep the rest. The text is the seed and the description of what was drawn."""
        fields = {"prompt": instruction, "seed": seed, "steps": steps, "guidance": guidance}
        form = {name: str(value) for name, value in fields.items() if value is not None}
        with _tool_errors():
            file = await picture_bytes(self._url(picture), self.app.state.service.fetching)
        files = {"image": ("picture", file)}
        return self._pictures(await self._request(ctx, "/v1/images/edits", data=form, files=files))

    async def embed(
        self,
        ctx: Context,
        texts: Annotated[Sequence[str], Field(description="Texts to embed.")] = (),
        pictures: Annotated[Sequence[str], Field(description="Pictures to embed, in the same form as elsewhere.")] = (),
    ) -> CallToolResult:
        """Embed texts and pictures as unit vectors of one space. The text has the cosine of every pair; the vectors are
        the structured content, texts first."""
        inputs = [{"text": text} for text in texts] + [{"image": self._url(picture)} for picture in pictures]
        response = await self._request(ctx, "/v1/embeddings", json={"input": inputs})
        vectors = np.array([item["embedding"] for item in response["data"]])
        names = [f"text {i + 1}" for i in range(len(texts))] + [f"picture {i + 1}" for i in range(len(pictures))]
        named = zip(names, vectors, strict=True)
        lines = [f"{a} and {b}: {u @ v:.3f}" for (a, u), (b, v) in combinations(named, 2)]
        text = "\n".join(lines) or f"A vector of {vectors.shape[1]} numbers."
        return _result(text, *_warnings(response), structured={"embeddings": vectors.tolist()})

    async def search(
        self,
        ctx: Context,
        index: Annotated[str, Field(description="The name of the index to search.")],
        words: Annotated[str | None, Field(description="What to look for.")] = None,
        picture: Annotated[str | None, Field(description="A picture to find similar ones to.")] = None,
        like: Annotated[Sequence[str], Field(description="Ids of items to find more like.")] = (),
        avoid: Annotated[Sequence[str], Field(description="Words for what a hit should not be like.")] = (),
        where: Annotated[Sequence[str], Field(description="Conditions, such as kind=png or width>=640.")] = (),
        k: Annotated[int, Field(description="Number of hits.")] = 10,
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
        body = {"index": index, "query": query, "where": list(where), "k": k, "allow_unknown": allow_unknown}
        response = await self._request(ctx, "/v1/search", json=body)
        hits, warnings = response["data"], response["warnings"]
        parts: list[str | ContentBlock] = list(warnings)
        for hit in hits:
            parts.append(f"{hit['score']:.3f}  {hit['id']}")
            if thumbnail := self.caller.thumbnail(hit):
                parts.append(_image(thumbnail))
        if not hits:
            parts.append("Nothing was found.")
        structured = {"hits": hits, "warnings": warnings, "unknown_words": response["unknown_words"]}
        return _result(*parts, structured=structured)

    async def index(
        self,
        ctx: Context,
        name: Annotated[
            str | None, Field(description="Lower-case letters, digits, - and _; without it all are listed.")
        ] = None,
        add: Annotated[Sequence[str], Field(description="Pictures to add, in the same form as elsewhere.")] = (),
        remove: Annotated[Sequence[str], Field(description="Ids of items to delete.")] = (),
    ) -> CallToolResult:
        """List the indexes, or add pictures to one, which is created if it does not exist, and delete items."""
        cards = {card["id"]: card["items"] for card in (await self._request(ctx, "/v1/index", "GET"))["data"]}
        if name is None:
            lines = "\n".join(f"{index_name}: {items} items" for index_name, items in cards.items())
            return _result(lines or "There is no index.")
        path = f"/v1/index/{quote(name)}"
        if add and name not in cards:
            await self._request(ctx, "/v1/index", json={"name": name})
        ids, faults = list[str](), list[str]()
        items = self.caller.items(add, faults.append)
        while batch := await asyncio.to_thread(lambda: list(islice(items, _BATCH))):
            await self._request(ctx, f"{path}/items", json={"items": batch})
            ids += [item["id"] for item in batch]
            await ctx.report_progress(len(ids), message=f"{len(ids)} pictures added")
        if remove:
            await self._request(ctx, f"{path}/items", "DELETE", params={"id": list(remove)})
        card = await self._request(ctx, path, "GET")
        lines = [
            f"{name} has {card['items']} items; {len(ids)} were added.",
            *(f"left out: {fault}" for fault in faults),
        ]
        return _result("\n".join(lines), structured={"added": ids, "items": card["items"]})

    async def loopback(
        self,
        ctx: Context,
        picture: PictureArgument,
        rounds: Annotated[int, Field(description="Number of rounds.")] = 4,
        seed: SeedArgument = None,
    ) -> CallToolResult:
        """Describe a picture, draw the description, and repeat, to see how far it drifts. The text beside each picture is
        the description it was drawn from and its likeness (cosine) to the first."""
        body = {"image": self._url(picture), "rounds": rounds, "seed": seed}
        response = await self._request(ctx, "/v1/loopback", json=body)
        parts = (
            self._picture(each["b64_json"], f"round {number}, likeness {each['to_origin']:.3f}: {each['words']}")
            for number, each in enumerate(response["rounds"], 1)
        )
        return _result(*chain.from_iterable(parts), *_warnings(response))

    # --- requests to routes, and results ---

    async def _request(self, ctx: Context, path: str, method: str = "POST", **body: Any) -> Any:
        """Return a route's response; raises ToolError with the message of an error response."""
        key = (ctx.headers or {}).get("authorization")
        transport = httpx2.ASGITransport(self.app, raise_app_exceptions=False)
        async with httpx2.AsyncClient(
            transport=transport, base_url="http://localhost", timeout=None, trust_env=False
        ) as client:
            response = await client.request(method, path, headers={"Authorization": key} if key else {}, **body)
        if response.status_code < 400:
            return response.json()
        wait = response.headers.get("retry-after")
        raise ToolError(response.json()["error"]["message"] + (f" Retry in {wait} s." if wait else ""))

    def _url(self, picture: str) -> str:
        with _tool_errors():
            return self.caller.url(picture)

    def _pictures(self, response: Any) -> CallToolResult:
        parts = (
            self._picture(each["b64_json"], f"seed {each['seed']}: {each['revised_prompt']}")
            for each in response["data"]
        )
        return _result(*chain.from_iterable(parts), *_warnings(response))

    def _picture(self, png: str, caption: str) -> tuple[ContentBlock, str]:
        """Return a picture, base64 of a PNG, and its caption, with the path if the caller saves pictures."""
        with _tool_errors():
            path = self.caller.save(base64.b64decode(png))
        return _image(png), f"{caption}\nsaved as {path}" if path else caption


class _Server(MCPServer):
    """The library's server with strict arguments: it ignores unknown ones, and reports invalid ones in several lines."""

    async def call_tool(self, name: str, arguments: dict[str, Any], context: Any = None) -> Any:
        """See `MCPServer.call_tool`; raises ToolError with one sentence for unknown or invalid arguments."""
        parameters = {tool.name: tool.input_schema["properties"] for tool in await self.list_tools()}
        with _tool_errors():
            for argument in arguments if name in parameters else ():
                if argument not in parameters[name]:
                    raise unknown_name(f"argument of {name}", argument, parameters[name])
        try:
            return await super().call_tool(name, arguments, context)
        except ToolError as error:
            if not isinstance(error.__cause__, ValidationError):
                raise
            fault = error.__cause__.errors()[0]
            path = ".".join(str(part) for part in fault["loc"])
            raise ToolError(f"Invalid arguments of {name}: {path}: {fault['msg']}.") from None


@contextmanager
def _tool_errors() -> Iterator[None]:
    """Turn a UserError inside into a ToolError."""
    try:
        yield
    except UserError as error:
        raise ToolError(str(error)) from None


def _image(png: str) -> ImageContent:
    return ImageContent(type="image", data=png, mime_type="image/png")


def _warnings(response: Any) -> list[str]:
    return [f"warning: {warning}" for warning in response["warnings"]]


def _result(*parts: str | ContentBlock, structured: Any = None) -> CallToolResult:
    content = [TextContent(type="text", text=part) if isinstance(part, str) else part for part in parts]
    return CallToolResult(content=content, structured_content=structured)


def http_route(server: MCPServer, body_bytes: int) -> Route:
    """Return the route of the tools over HTTP; `server.session_manager.run()` must be active while it is served.

    It is stateless: no data is kept between requests, no session can be hijacked, and GET has nothing to stream. `Guard`
    rejects foreign origins and hosts, as for all routes.
    """
    security = TransportSecuritySettings(enable_dns_rebinding_protection=False)
    server.streamable_http_app(stateless_http=True, max_request_body_size=body_bytes, transport_security=security)
    return Route(PATH, StreamableHTTPASGIApp(server.session_manager), methods=["POST"])


async def serve_stdio(app: FastAPI, folder: Path | None) -> None:
    """Serve the tools over stdin and stdout until they close; the app itself does not listen."""
    async with app.router.lifespan_context(app):
        await Tools(app, LocalCaller(app.state.service.engine.model, folder)).server().run_stdio_async()
