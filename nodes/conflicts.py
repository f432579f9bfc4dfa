"""Another installed pack that registers the same node ids: said once in the log, with what to do."""

from __future__ import annotations

import logging
import sys
from collections.abc import Mapping
from typing import Any

log = logging.getLogger("wanvideo_activation_editor")


def watch_node_ids(ours: Mapping[str, type]) -> None:
    """Warn of packs that have registered the ids already, and at the first prompt of those that took them later.

    Outside of ComfyUI's server there is nothing to watch.
    """
    registered = getattr(sys.modules.get("nodes"), "NODE_CLASS_MAPPINGS", None)
    server = getattr(getattr(sys.modules.get("server"), "PromptServer", None), "instance", None)
    if registered is None or server is None:
        return
    _warn(_by_others(ours, registered), "and the nodes of WanVideo Activation Editor take their place")
    unchecked = [True]

    def at_first_prompt(prompt: Any) -> Any:
        if unchecked:
            unchecked.clear()
            _warn(_by_others(ours, registered), "and its nodes are used instead of those of WanVideo Activation Editor")
        return prompt

    server.add_on_prompt_handler(at_first_prompt)


def _by_others(ours: Mapping[str, type], registered: Mapping[str, type]) -> dict[str, list[str]]:
    """Ids by the module that registered another class for them."""
    found: dict[str, list[str]] = {}
    for node_id, cls in ours.items():
        other = registered.get(node_id)
        if other is not None and other is not cls:
            module = getattr(other, "RELATIVE_PYTHON_MODULE", None) or other.__module__
            found.setdefault(module, []).append(node_id)
    return found


def _warn(found: Mapping[str, list[str]], outcome: str) -> None:
    for module, ids in found.items():
        log.warning(
            "%s registers the same node ids (%s), %s. Disable one of the two packs and restart ComfyUI.",
            module,
            ", ".join(ids),
            outcome,
        )
