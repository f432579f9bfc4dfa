"""Nodes of older workflow files that another node of this pack replaces, told to ComfyUI where it has node replacement.

web/js/old_files.js converts a file in the front end; this is for prompts that reach a server without one. A node is
listed only if every output that can be used has its place: the server leaves the others as they are.
"""

from __future__ import annotations

from comfy_api import latest

REPLACEMENTS = (
    {
        "old_node_id": "WanVideoEmbeddingInspector",
        "new_node_id": "WanVideoEmbeddingAnalyzer",
        "input_mapping": [
            {"new_id": "text_embeds", "old_id": "embeddings"},
            {"new_id": "analysis_type", "set_value": "all"},
            {"new_id": "store_in_db", "set_value": False},
        ],
        "output_mapping": [{"new_idx": 1, "old_idx": 0}, {"new_idx": 0, "old_idx": 1}],
    },
)


async def register() -> None:
    """Tell ComfyUI; nothing where its version has no node replacement."""
    node_replace = getattr(latest.io, "NodeReplace", None)
    if node_replace is None:
        return
    api = latest.ComfyAPI()
    for replacement in REPLACEMENTS:
        await api.node_replacement.register(node_replace(**replacement))
