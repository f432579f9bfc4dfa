"""WanVideo Search Embeddings: the stored embeddings nearest to a prompt's."""

from __future__ import annotations

import time
from typing import Any

from comfy_api.latest import io

from ..embeddings.text_embeds import read_text_embeds
from .recording import form_of
from .sockets import CATEGORY, embeds_template, errors_named, schema
from .store_access import STORE
from .store_values import as_conditioning, as_wrapper_embeds


class WanVideoSearchEmbeddings(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        embeds = embeds_template()
        return schema(
            node_id="WanVideoSearchEmbeddings",
            display_name="WanVideo Search Embeddings",
            category=f"{CATEGORY}/Store",
            description="Finds the stored embeddings nearest to these, by the cosine of their mean tokens.",
            is_output_node=True,
            not_idempotent=True,
            inputs=[
                io.MatchType.Input("text_embeds", template=embeds, tooltip="The embeds to compare with."),
                io.Int.Input("count", default=10, min=1, max=100, tooltip="How many to list."),
                io.String.Input("text", default="", tooltip="Only where prompt, name or note hold all these words."),
                io.String.Input("tag", default="", tooltip="Only with this tag."),
            ],
            outputs=[
                io.String.Output(id="report", display_name="report"),
                io.MatchType.Output(template=embeds, id="best_match", display_name="best_match"),
                io.String.Output(id="best_name", display_name="best_name"),
            ],
        )

    @classmethod
    def fingerprint_inputs(cls, **kwargs: Any) -> Any:
        return time.time_ns()

    @classmethod
    def execute(cls, text_embeds: Any, count: int, text: str, tag: str) -> io.NodeOutput:
        with errors_named("WanVideo Search Embeddings"):
            read_text_embeds(text_embeds, "text_embeds")
            store = STORE.open()
            from ..storage import reports

            found = store.nearest(text_embeds, count, text, tag.strip())
            report = reports.neighbours(found)
            if not found:
                return io.NodeOutput(report, blocked(report), "", ui={"text": (report,)})
            nearest = found[0][0]
            best = store.load(nearest.embedding_id).value
            convert = as_wrapper_embeds if form_of(text_embeds) == "WANVIDEOTEXTEMBEDS" else as_conditioning
            label = nearest.name or nearest.prompt or ""
        return io.NodeOutput(report, convert(best), label, ui={"text": (report,)})


def blocked(reason: str) -> Any:
    """An output whose use stops with this reason."""
    try:
        from comfy_execution.graph_utils import ExecutionBlocker  # type: ignore[import-not-found]
    except ImportError:
        return None
    return ExecutionBlocker(reason)


NODES = [WanVideoSearchEmbeddings]
