"""Progress of an edit, sent to the page that queued it; web/js/status.js shows it on the editor node."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from typing import Any

from ..edit import Edit
from ..statistics import Observer

EVENT = "wan_activation_editor.status"


def observer_for(edit: Edit) -> Observer | None:
    """What sends an edit's progress to its node; None where there is no node, or no ComfyUI server."""
    server = getattr(getattr(sys.modules.get("server"), "PromptServer", None), "instance", None)
    if edit.reports_to is None or server is None:
        return None
    node, workflow = edit.reports_to

    def send(message: Mapping[str, Any]) -> None:
        if server.client_id is not None:  # a workflow queued by a script has no page
            server.send_sync(EVENT, {"node": node, "workflow": workflow or None, **message}, server.client_id)

    return send
