"""Messages of a running edit to the page that queued it; web/js/status.js shows them on the editor node."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from typing import Any

from ..patching import Observer

EVENT = "wan_activation_editor.status"


def status_sender(hidden: Any) -> Observer | None:
    """What sends an edit's messages as the executing node's; None outside of ComfyUI's server.

    Args:
        hidden: the node's hidden inputs, with its `unique_id` and the workflow's `extra_pnginfo`.
    """
    node = getattr(hidden, "unique_id", None)
    server = getattr(getattr(sys.modules.get("server"), "PromptServer", None), "instance", None)
    if node is None or server is None:
        return None

    workflow = ((getattr(hidden, "extra_pnginfo", None) or {}).get("workflow") or {}).get("id")

    def send(message: Mapping[str, Any]) -> None:
        if server.client_id is not None:  # a workflow queued by a script has no page
            server.send_sync(EVENT, {"node": node, "workflow": workflow, **message}, server.client_id)

    return send
