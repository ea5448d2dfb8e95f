"""Talk about a picture; the reply comes word by word."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import aclosing
from typing import Any

import gradio as gr

from latentbridge.serving.routes.chat import ask_of, warnings_of
from latentbridge.serving.schemas import ChatRequest, ImagePart, ImageUrl, Message, TextPart
from latentbridge.serving.ui.api_bridge import ApiBridge
from latentbridge.serving.ui.inputs import note, note_output

_PATH = "/v1/chat/completions"


def tab(api: ApiBridge) -> None:
    """A conversation about one picture; another picture begins another conversation."""
    messages, lines = gr.State([], time_to_live=3600), gr.State([], time_to_live=3600)
    talk = gr.Chatbot(
        label="Conversation",
        height=520,
        buttons=["copy"],
        feedback_options=None,
        render_markdown=False,
        elem_classes="talk",
        placeholder="Add a picture below and ask about it.\n\nA new picture begins a new conversation.",
    )
    doubts = note_output()
    said = gr.MultimodalTextbox(
        label="Your message",
        show_label=False,
        placeholder="What is in the picture?",
        sources=["upload"],
        file_types=["image"],
        elem_id="say",
    )
    with gr.Row():
        in_steps = gr.Checkbox(label="Answer in steps", min_width=160)
        stop = gr.Button("Stop", min_width=120, interactive=False)
        anew = gr.Button("New conversation", min_width=120)

    async def reply(
        given: dict[str, Any], earlier: list[Message], shown: list[Any], in_steps: bool, visit: gr.Request
    ) -> AsyncIterator[tuple[Any, ...]]:
        async with api.telling():
            request = api.request(visit, _PATH)
            files, text = given["files"], given["text"].strip()
            if files:
                earlier, shown = [], [_line("user", {"path": files[0], "alt_text": "Your picture"})]
            part = [ImagePart(type="image_url", image_url=ImageUrl(url=await api.data_url(files[0])))] if files else []
            asked = [*earlier, Message(role="user", content=[TextPart(type="text", text=text), *part])]
            effort = "low" if in_steps else "none"
            chat = ChatRequest(messages=asked, reasoning_effort=effort)
            ask = await ask_of(chat, api.service)
            warnings = await warnings_of(chat, ask, api.service)
            request.state.charge(ask.max_tokens)
            shown = [*shown, _line("user", text)] if text else shown
            yield None, asked, shown, shown, gr.Button(interactive=True), note(warnings)
            answer = ""
            async with aclosing(api.service.pieces(ask)) as pieces:
                async for piece in pieces:
                    answer += piece.text
                    told = [*shown, _line("assistant", answer)]
                    yield None, [*asked, Message(role="assistant", content=answer)], told, told, gr.skip(), gr.skip()

    outputs = [said, messages, lines, talk, stop, doubts]
    sending = said.submit(reply, [said, messages, lines, in_steps], outputs, show_progress="hidden")
    idle = gr.update(interactive=False)
    sending.then(lambda: idle, None, stop, show_progress="hidden")
    stop.click(lambda: idle, None, stop, cancels=[sending], show_progress="hidden")
    gr.on([anew.click, talk.clear], lambda: (None, [], [], [], idle, note([])), None, outputs, cancels=[sending])


def _line(role: str, content: Any) -> dict[str, Any]:
    return {"role": role, "content": content}
