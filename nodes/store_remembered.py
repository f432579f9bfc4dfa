"""WanVideo Remembered Prompt: encodes a prompt once."""

from __future__ import annotations

import contextlib
from typing import Any

from comfy_api.latest import io

from ..embeddings.text_embeds import read_text_embeds
from ..storage.text import MAX_NAME, shown
from .recording import form_of
from .sockets import CATEGORY, embeds_template, errors_named, shown_schema
from .store import checked_name, load_named
from .store_access import STORE

_stored: dict[str, int | None] = {}
"""Ids under which this node has stored: after storing, the fingerprint is what it was before."""


class WanVideoRememberedPrompt(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        embeds = embeds_template()
        return shown_schema(
            node_id="WanVideoRememberedPrompt",
            display_name="WanVideo Remembered Prompt",
            category=f"{CATEGORY}/Store",
            description="Gives the embeddings stored under a name; encodes and stores them only when there are none.",
            inputs=[
                io.String.Input(
                    "name", default="", tooltip="Name in the embedding store. Use another one for another prompt."
                ),
                io.MatchType.Input(
                    "text_embeds",
                    template=embeds,
                    lazy=True,
                    tooltip="Only computed when nothing is stored under the name, or to refresh it.",
                ),
                io.Boolean.Input("refresh", default=False, tooltip="Encode again and store the result."),
            ],
            outputs=[
                io.MatchType.Output(template=embeds, id="text_embeds", display_name="text_embeds"),
                io.String.Output(id="info", display_name="info"),
            ],
        )

    @classmethod
    def fingerprint_inputs(cls, name: str = "", **kwargs: Any) -> Any:
        name = str(name).strip()
        with contextlib.suppress(RuntimeError):  # the run says why the store cannot be opened
            found = STORE.open().id_of(name)
            return None if found == _stored.get(name) else found
        return None

    @classmethod
    def check_lazy_status(cls, name: str, text_embeds: Any = None, refresh: bool = False) -> list[str]:
        with errors_named("WanVideo Remembered Prompt"):
            needed = refresh or STORE.open().id_of(checked_name(name)) is None
        return ["text_embeds"] if needed and text_embeds is None else []

    @classmethod
    def execute(cls, name: str, text_embeds: Any = None, refresh: bool = False) -> io.NodeOutput:
        with errors_named("WanVideo Remembered Prompt"):
            name = checked_name(name)
            store = STORE.open()
            if not refresh and store.id_of(name) is not None:
                stored = load_named(name)
                info = f"From the store: {shown(name, MAX_NAME)}"
                info += f", prompt {shown(stored.prompt or 'not known')}. Set refresh to encode text_embeds again."
                return io.NodeOutput(stored.value, info, ui={"text": (info,)})
            embeds = read_text_embeds(text_embeds, "text_embeds")
            from ..storage.records import Description

            told = Description(name=name, prompt=embeds.prompt, kind=embeds.space, form=form_of(text_embeds))
            _stored[name] = store.put(text_embeds, told, exact=True)
        info = f"Encoded and stored as {shown(name, MAX_NAME)}, prompt {shown(embeds.prompt or 'not known')}."
        return io.NodeOutput(text_embeds, info, ui={"text": (info,), "wan_store": (True,)})


NODES = [WanVideoRememberedPrompt]
