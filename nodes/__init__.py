"""ComfyUI nodes (V3 schema): schema and glue; the work is done in the other packages."""

from __future__ import annotations

from comfy_api.latest import ComfyExtension, io

from . import (
    amplification,
    analysis,
    blocks,
    calibration,
    comparison,
    conflicts,
    control_vector_apply,
    control_vector_tools,
    control_vectors,
    editor,
    forcing,
    gains,
    hidden,
    images,
    inspection,
    learned_tokens,
    probing,
    recipes,
    replacements,
    store,
    store_exchange,
    store_remembered,
    store_search,
    token_reading,
    vectors,
)

NODES: list[type[io.ComfyNode]] = [
    *editor.NODES,
    *blocks.NODES,
    *inspection.NODES,
    *comparison.NODES,
    *vectors.NODES,
    *amplification.NODES,
    *forcing.NODES,
    *hidden.NODES,
    *control_vectors.NODES,
    *control_vector_apply.NODES,
    *control_vector_tools.NODES,
    *calibration.NODES,
    *learned_tokens.NODES,
    *probing.NODES,
    *token_reading.NODES,
    *analysis.NODES,
    *gains.NODES,
    *images.NODES,
    *recipes.NODES,
    *store.NODES,
    *store_exchange.NODES,
    *store_remembered.NODES,
    *store_search.NODES,
]


class ActivationEditorExtension(ComfyExtension):
    async def on_load(self) -> None:
        await replacements.register()

    async def get_node_list(self) -> list[type[io.ComfyNode]]:
        conflicts.watch_node_ids({cls.GET_SCHEMA().node_id: cls for cls in NODES})
        return NODES
