"""The tab for conversations about a picture, with streamed replies."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import aclosing
from typing import Any

import gradio as gr

from latentbridge.serving.routes.chat import chat_warnings, generation_request
from latentbridge.serving.schemas import (
    AssistantMessage,
    ChatCompletionRequest,
    ImagePart,
    InputMessage,
    Message,
    TextPart,
)
from latentbridge.serving.ui.api_bridge import ApiBridge
from latentbridge.serving.ui.inputs import show_warnings, warnings_output

_PATH = "/v1/chat/completions"


def tab(api: ApiBridge) -> None:
    """Build the tab; a new picture begins a new conversation."""
    messages, history = gr.State([], time_to_live=3600), gr.State([], time_to_live=3600)
    chatbot = gr.Chatbot(
        label="Conversation",
        height=520,
        buttons=["copy"],
        feedback_options=None,
        render_markdown=False,
        elem_classes="talk",
        placeholder="Add a picture below and ask about it.\n\nA new picture begins a new conversation.",
    )
    warnings = warnings_output()
    textbox = gr.MultimodalTextbox(
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
        reset = gr.Button("New conversation", min_width=120)

    async def reply(
        entry: dict[str, Any], earlier: list[Message], lines: list[Any], in_steps: bool, visit: gr.Request
    ) -> AsyncIterator[tuple[Any, ...]]:
        async with api.show_errors():
            request = api.request(visit, _PATH)
            files, text = entry["files"], entry["text"].strip()
            if files:
                earlier, lines = [], [_line("user", {"path": files[0], "alt_text": "Your picture"})]
            part = [ImagePart(type="image_url", image_url=await api.data_url(files[0]))] if files else []
            sent = [*earlier, InputMessage(role="user", content=[TextPart(type="text", text=text), *part])]
            body = ChatCompletionRequest(messages=sent, reasoning_effort="low" if in_steps else "none")
            generation = await generation_request(body, api.service)
            doubts = await chat_warnings(body, generation, api.service)
            request.state.charge(generation.options.max_tokens)
            lines = [*lines, _line("user", text)] if text else lines
            yield None, sent, lines, lines, gr.Button(interactive=True), show_warnings(doubts)
            answer = ""
            async with aclosing(api.service.stream(generation)) as chunks:
                async for chunk in chunks:
                    answer += chunk.text
                    shown = [*lines, _line("assistant", answer)]
                    yield (
                        None,
                        [*sent, AssistantMessage(role="assistant", content=answer)],
                        shown,
                        shown,
                        gr.skip(),
                        gr.skip(),
                    )

    outputs = [textbox, messages, history, chatbot, stop, warnings]
    sending = textbox.submit(reply, [textbox, messages, history, in_steps], outputs, show_progress="hidden")
    idle = gr.update(interactive=False)
    sending.then(lambda: idle, None, stop, show_progress="hidden")
    stop.click(lambda: idle, None, stop, cancels=[sending], show_progress="hidden")
    cleared = (None, [], [], [], idle, show_warnings([]))
    gr.on([reset.click, chatbot.clear], lambda: cleared, None, outputs, cancels=[sending])


def _line(role: str, content: Any) -> dict[str, Any]:
    return {"role": role, "content": content}
