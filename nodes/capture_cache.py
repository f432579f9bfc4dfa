"""Captured hidden states that were made before, by what they were made from: in memory, and in the embedding store."""

from __future__ import annotations

import logging
import threading
from collections import OrderedDict
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from ..embeddings.text_embeds import TextEmbeds
from ..patching.capture import HiddenStates
from ..patching.edit import KEY
from ..patching.fingerprint import UnidentifiedError, fingerprint, identity_of
from .recording import recall, remember
from .store_access import STORE, store_path

if TYPE_CHECKING:
    from ..storage.records import EmbeddingKey

log = logging.getLogger("wanvideo_activation_editor")

EMPTY_LATENT_SCALES = ("downscale_ratio_spacial", "downscale_ratio_temporal")
"""What newer empty latents say of their size; samplers bring them to the model's."""

CACHE_BYTES = 2**31
"""Most that captured states take in memory beside ComfyUI's own cache of node outputs."""


class StateCache:
    """Captured states by a key of their content; the least recently used go first when the bound is reached."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._held: OrderedDict[str, HiddenStates] = OrderedDict()
        self._lock = threading.Lock()

    def get(self, key: str) -> HiddenStates | None:
        with self._lock:
            found = self._held.get(key)
            if found is not None:
                self._held.move_to_end(key)
            return found

    def put(self, key: str, states: HiddenStates) -> None:
        """Keep them, unless they alone are more than the bound."""
        with self._lock:
            self._held.pop(key, None)
            if states.size > self._limit:
                return
            self._held[key] = states
            while sum(kept.size for kept in self._held.values()) > self._limit:
                self._held.popitem(last=False)

    def clear(self) -> None:
        with self._lock:
            self._held.clear()


CACHE = StateCache(CACHE_BYTES)


class CachedCapture:
    """Where a capture may be found again: in memory, and in the embedding store when there is one on disk."""

    def __init__(
        self,
        host: Any,
        model: Any,
        text_embeds: Any,
        prompt: TextEmbeds,
        settings: Mapping[str, Any],
        latent: Any,
        image_embeds: Any,
    ) -> None:
        self._prompt, self._settings = prompt, settings
        self.identity, self._content, self._unknown = "", "", ""
        try:
            self.identity = identity_of(host, model)
            given = (
                {k: latent.get(k) for k in ("samples", "noise_mask", "batch_index", *EMPTY_LATENT_SCALES)}
                if latent
                else None
            )
            content = (_without_negative(text_embeds), given, image_embeds)
            self._content = fingerprint(content)
        except UnidentifiedError as error:
            self._unknown = f"; not cached: {error}, which cannot be told from another"
        self._memory_key = fingerprint((self.identity, self._content, settings))

    def find(self) -> HiddenStates | None:
        if self._unknown:
            return None
        found = CACHE.get(self._memory_key)
        if found is None and (key := self._store_key()) is not None:
            found = HiddenStates.from_plain(recall(key))
            if found is not None:
                CACHE.put(self._memory_key, found)
        return found

    def keep(self, states: HiddenStates) -> str:
        """Keep them; returns what is to be said of it."""
        if self._unknown:
            return self._unknown
        CACHE.put(self._memory_key, states)
        if (key := self._store_key()) is not None:
            from ..storage.codec import MAX_TENSOR_BYTES

            if states.size > MAX_TENSOR_BYTES:
                return f"; kept in memory only, the embedding store takes up to {MAX_TENSOR_BYTES >> 20} MB"
            remember(key, states.plain(), self._prompt.prompt)
        return ""

    def _store_key(self) -> EmbeddingKey | None:
        """None while there is no file, and for all_blocks, which is too much for it."""
        path = store_path()
        if self._settings["all_blocks"] or path is None or (STORE.opened is None and not path.exists()):
            return None
        try:
            from ..storage.records import EmbeddingKey
        except ImportError as error:
            log.info("WanVideo Latent Encoder: captures are cached in memory only: %s", error)
            return None
        details = {**self._settings, "size": list(self._settings["size"]), "inputs": self._content}
        return EmbeddingKey(self._prompt.prompt or "", self.identity, "half", kind="hidden", details=details)


def _without_negative(text_embeds: Any) -> Any:
    """What a conditional call reads of the embeddings."""
    if isinstance(text_embeds, Mapping):
        return {k: v for k, v in text_embeds.items() if k not in (KEY, "negative_prompt_embeds")}
    return [[tensor, {k: v for k, v in extra.items() if k not in (KEY, "uuid")}] for tensor, extra in text_embeds]
