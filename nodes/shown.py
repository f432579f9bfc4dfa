"""What an executed node sends to its page, to be shown on the node; web/js reads it under the same key."""

from __future__ import annotations

from typing import Any

from ..patching import BlockStrengths, host_of

TOLD = "wan_activation_editor"


def model_told(model: Any, strengths: BlockStrengths | None = None) -> dict[str, Any]:
    """For `io.NodeOutput(ui=...)`: the model's block count and, of an editing node, the strength of every block."""
    count = host_of(model).wan_model(model).block_count
    told: dict[str, Any] = {"blocks": count}
    if strengths is not None:
        told["strengths"] = [round(strength, 4) for strength in strengths.resolve(count)]
    return {TOLD: (told,)}
