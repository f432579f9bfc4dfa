"""WanVideo Embedding Analyzer."""

from __future__ import annotations

from typing import Any

from comfy_api.latest import io

from ..embeddings.analysis import statistics
from ..embeddings.promptwise import read_truncated
from ..embeddings.report import pca_report, shape_report, statistics_report
from ..embeddings.text_embeds import TextEmbeds
from .recording import record_analysis, recorded_analysis
from .shown import told_tables
from .sockets import CATEGORY, embeds_template, errors_named, schema

REPORTS = {"statistics": statistics_report, "shape": shape_report, "pca_preview": pca_report}
VERSION = 1
"""Of the reports; a change makes kept ones unused."""


class WanVideoEmbeddingAnalyzer(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        embeds = embeds_template()
        return schema(
            node_id="WanVideoEmbeddingAnalyzer",
            display_name="WanVideo Embedding Analyzer",
            category=f"{CATEGORY}/Inspection",
            description="Shape, values, norms and principal components of a prompt's embeddings.",
            is_output_node=True,
            inputs=[
                io.MatchType.Input("text_embeds", template=embeds, tooltip="Passed on unchanged."),
                io.Combo.Input(
                    "analysis_type",
                    options=[*REPORTS, "all"],
                    default="all",
                    tooltip="statistics: values and norms. shape: sizes and dtype. pca_preview: how many dimensions "
                    "the tokens use. all: everything.",
                ),
                io.Boolean.Input(
                    "store_in_db",
                    default=True,
                    tooltip="Keep the result in the embedding store, and use it again.",
                ),
            ],
            outputs=[
                io.String.Output(id="analysis_report", display_name="analysis_report"),
                io.MatchType.Output(template=embeds, id="text_embeds", display_name="text_embeds"),
            ],
        )

    @classmethod
    def execute(cls, text_embeds: Any, analysis_type: str, store_in_db: bool) -> io.NodeOutput:
        with errors_named("WanVideo Embedding Analyzer"):
            embeds = read_truncated(text_embeds, "text_embeds")
            kept_as = f"{analysis_type} {VERSION}"
            text = recorded_analysis(text_embeds, kept_as) if store_in_db else None
            if text is None:
                text = _report(embeds, analysis_type)
                if store_in_db:
                    record_analysis(text_embeds, kept_as, text, embeds.prompt)
            told = told_tables(*_tables(embeds, analysis_type))
            return io.NodeOutput(text, text_embeds, ui={"text": (text,), **told})


def _tables(embeds: TextEmbeds, analysis_type: str) -> list[dict[str, Any]]:
    """A table a prompt for the node; none where the report has no statistics."""
    if analysis_type not in ("statistics", "all"):
        return []
    found = []
    for number, prompt in enumerate(embeds.prompts, 1):
        s = statistics(prompt)
        values = ["values", s.mean, s.std, s.minimum, s.maximum]
        norms = ["token norms", s.token_norm_mean, s.token_norm_std, s.token_norm_min, s.token_norm_max]
        tokens, width = prompt.shape
        caption = f"Prompt {number}: {tokens} tokens x {width}, {100 * s.near_zero:.1f}% near zero"
        found.append({"caption": caption, "columns": ["", "mean", "std", "min", "max"], "rows": [values, norms]})
    return found


def _report(embeds: TextEmbeds, analysis_type: str) -> str:
    chosen = list(REPORTS) if analysis_type == "all" else [analysis_type]
    if not set(chosen) <= set(REPORTS):
        raise ValueError(f"analysis_type must be one of {', '.join(REPORTS)}, all, not {analysis_type!r}.")
    parts = []
    for number, prompt in enumerate(embeds.prompts, 1):
        heading = f"Prompt {number} of {len(embeds.prompts)}"
        if embeds.prompt and len(embeds.prompts) == 1:
            heading += f": {embeds.prompt}"
        parts += [heading, *(REPORTS[name](prompt) for name in chosen)]
    return "\n".join(parts)


NODES = [WanVideoEmbeddingAnalyzer]
