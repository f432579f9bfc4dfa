"""Nodes that keep embeddings: the database, storing, loading, searching."""

from __future__ import annotations

import logging
import time
from collections import Counter
from typing import Any

from comfy_api.latest import io

from ..embeddings import read_text_embeds
from .recording import form_of
from .sockets import CATEGORY, WanVideoTextEmbeds, embeds_template, errors_named
from .store_access import STORE
from .store_values import DEVICES, DTYPES, as_conditioning, as_wrapper_embeds, device_of, moved

log = logging.getLogger("wanvideo_activation_editor")

FAMILY = f"{CATEGORY}/Store"
NOTHING = "(nothing stored yet)"
RECENT = 30

_stored: set[str] = set()
_removals: Counter[str] = Counter()
"""Names that Store Embedding stored, and how often they were found removed since."""


class WanVideoEmbeddingDatabase(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="WanVideoEmbeddingDatabase",
            display_name="WanVideo Embedding Database",
            category=FAMILY,
            description="Reports on the embedding store and keeps it in order.",
            is_output_node=True,
            not_idempotent=True,
            inputs=[
                io.Combo.Input(
                    "action",
                    options=["stats", "cleanup", "list_recent", "performance", "verify", "compact"],
                    default="stats",
                    tooltip="cleanup removes what is old and little used, verify reads every checksum, compact gives "
                    "free space back to the disk.",
                ),
                io.Int.Input(
                    "cleanup_days", default=30, min=1, max=365, tooltip="cleanup: not used for more than these days."
                ),
                io.Int.Input(
                    "cleanup_min_access", default=5, min=1, max=100, tooltip="cleanup: read fewer times than this."
                ),
                io.Boolean.Input(
                    "dry_run", default=True, optional=True, tooltip="cleanup: only report what would be removed."
                ),
                io.Boolean.Input(
                    "keep_named", default=True, optional=True, tooltip="cleanup: keep embeddings that have a name."
                ),
                io.Int.Input(
                    "size_limit_mb",
                    default=0,
                    min=0,
                    max=1_000_000,
                    optional=True,
                    tooltip="cleanup: if not 0, remove what was used longest ago until this size is reached, instead.",
                ),
            ],
            outputs=[io.String.Output(id="report", display_name="report")],
        )

    @classmethod
    def fingerprint_inputs(cls, **kwargs: Any) -> Any:
        return time.time_ns()

    @classmethod
    def execute(
        cls,
        action: str,
        cleanup_days: int,
        cleanup_min_access: int,
        dry_run: bool = True,
        keep_named: bool = True,
        size_limit_mb: int = 0,
    ) -> io.NodeOutput:
        with errors_named("WanVideo Embedding Database"):
            store = STORE.open()
            from ..storage import analytics, compaction, maintenance, reports, selection

            if action == "stats":
                text = reports.stats_report(analytics.stats(store))
            elif action == "cleanup" and size_limit_mb:
                text = reports.removal_report(maintenance.evict(store, size_limit_mb << 20, dry_run, keep_named))
            elif action == "cleanup":
                text = reports.removal_report(
                    maintenance.cleanup(store, cleanup_days, cleanup_min_access, dry_run, keep_named)
                )
            elif action == "list_recent":
                store.flush_usage()
                text = reports.recent_report(selection.list_embeddings(store, order="recent", limit=RECENT))
            elif action == "performance":
                text = reports.performance_report(analytics.performance(store))
            elif action == "verify":
                text = reports.verification_report(maintenance.verify(store))
            elif action == "compact":
                text = reports.compaction_report(compaction.compact(store))
            else:
                raise ValueError(f"Unknown action {action!r}.")
        return io.NodeOutput(text, ui={"text": (text,)})


class WanVideoStoreEmbedding(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        embeds = embeds_template()
        return io.Schema(
            node_id="WanVideoStoreEmbedding",
            display_name="WanVideo Store Embedding",
            category=FAMILY,
            description="Keeps text embeds under a name, for use in any workflow without the text encoder.",
            is_output_node=True,
            inputs=[
                io.MatchType.Input("text_embeds", template=embeds, tooltip="WANVIDEOTEXTEMBEDS or CONDITIONING."),
                io.String.Input("name", default="", tooltip="Name to load it by. A name in use moves to these embeds."),
                io.String.Input("tags", default="", tooltip="Words to find it by, separated by commas."),
                io.String.Input("note", default="", multiline=True, tooltip="Free text, kept with the name."),
                io.String.Input(
                    "prompt", default="", multiline=True, optional=True, tooltip="The prompt's text, for searches."
                ),
                io.Combo.Input(
                    "precision",
                    options=["half", "exact", "compact"],
                    default="half",
                    optional=True,
                    tooltip="half: bf16 and fp16 exactly, fp32 rounded to fp16. exact: bit for bit. "
                    "compact: 5 mantissa bits, up to 1.6% off per value, about a fifth smaller.",
                ),
            ],
            outputs=[io.MatchType.Output(template=embeds, id="text_embeds", display_name="text_embeds")],
        )

    @classmethod
    def fingerprint_inputs(cls, name: str = "", **kwargs: Any) -> Any:
        """How often the name was removed after it had been stored here; then, and only then, it is stored again."""
        name = str(name).strip()
        if name in _stored and STORE.open().id_of(name) is None:
            _stored.discard(name)
            _removals[name] += 1
        return _removals[name]

    @classmethod
    def execute(
        cls, text_embeds: Any, name: str, tags: str, note: str, prompt: str = "", precision: str = "half"
    ) -> io.NodeOutput:
        with errors_named("WanVideo Store Embedding"):
            name = checked_name(name)
            embeds = read_text_embeds(text_embeds, "text_embeds")
            store = STORE.open()
            from ..storage import Description, pack

            dropped = pack(text_embeds).dropped
            if dropped:
                log.info("WanVideo Store Embedding: %s cannot be stored and is left out.", ", ".join(dropped))
            store.put(
                text_embeds,
                Description(
                    name=name,
                    prompt=prompt.strip() or embeds.prompt,
                    kind=embeds.space,
                    form=form_of(text_embeds),
                    tags=split_words(tags),
                    note=note,
                ),
                precision,  # type: ignore[arg-type]
            )
            _stored.add(name)
        text = f"Stored as {name!r}: {len(embeds.prompts)} prompt(s), {list(embeds.token_counts)} tokens."
        return io.NodeOutput(text_embeds, ui={"text": (text,)})


class WanVideoLoadEmbedding(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        names = STORE.names()
        return io.Schema(
            node_id="WanVideoLoadEmbedding",
            display_name="WanVideo Load Embedding",
            category=FAMILY,
            description="Gives back stored text embeds, for the wrapper and for native models.",
            inputs=[
                io.Combo.Input(
                    "embedding",
                    options=names or [NOTHING],
                    tooltip="Stored embeddings. Press R in the graph editor to read the list again.",
                ),
                io.Combo.Input(
                    "device",
                    options=list(DEVICES),
                    default="offload",
                    tooltip="offload: where ComfyUI parks models. main: the device that samples. "
                    "stored: the kind of device that it was on.",
                ),
                io.Combo.Input(
                    "dtype", options=list(DTYPES), default="stored", tooltip="stored: the dtype that it had."
                ),
            ],
            outputs=[
                WanVideoTextEmbeds.Output(id="text_embeds", display_name="text_embeds"),
                io.Conditioning.Output(id="conditioning", display_name="conditioning"),
                io.String.Output(id="prompt", display_name="prompt"),
            ],
        )

    @classmethod
    def fingerprint_inputs(cls, embedding: str, **kwargs: Any) -> Any:
        return embedding, STORE.open().id_of(embedding)

    @classmethod
    def execute(cls, embedding: str, device: str, dtype: str) -> io.NodeOutput:
        with errors_named("WanVideo Load Embedding"):
            stored = load_named(embedding, restore_devices=device == "stored")
            value = moved(stored.value, device_of(device), DTYPES[dtype])
            return io.NodeOutput(as_wrapper_embeds(value), as_conditioning(value), stored.entry.prompt or "")


class WanVideoSearchEmbeddings(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        embeds = embeds_template()
        return io.Schema(
            node_id="WanVideoSearchEmbeddings",
            display_name="WanVideo Search Embeddings",
            category=FAMILY,
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
            from ..storage import analysis, reports, selection

            found = selection.nearest(store, text_embeds, count, tag=tag.strip() or None, text=text.strip() or None)
            report = reports.neighbours_report(found)
            if not found:
                return io.NodeOutput(report, blocked(report), "", ui={"text": (report,)})
            own_id = store.id_of_value(text_embeds)
            if own_id is not None:
                scores = {n.embedding.embedding_id: n.cosine for n in found}
                analysis.save_similarities(store, own_id, list(scores.items()))
            best = store.load(found[0].embedding.embedding_id).value
            convert = as_wrapper_embeds if form_of(text_embeds) == "WANVIDEOTEXTEMBEDS" else as_conditioning
            label = found[0].embedding.name or found[0].embedding.prompt or ""
        return io.NodeOutput(report, convert(best), label, ui={"text": (report,)})


def checked_name(name: str) -> str:
    """The name without outer blanks. Raises ValueError when it is empty, too long, or has control characters."""
    from ..storage.names import MAX_NAME

    name = name.strip()
    if not name or len(name) > MAX_NAME or any(ord(c) < 32 for c in name) or name == NOTHING:
        raise ValueError(f"name must be 1 to {MAX_NAME} characters on one line.")
    return name


def split_words(text: str) -> tuple[str, ...]:
    """Words separated by commas or line ends, each once."""
    return tuple(dict.fromkeys(w for w in (p.strip() for p in text.replace("\n", ",").split(",")) if w))


def load_named(name: str, restore_devices: bool = False) -> Any:
    """The stored embedding of a name; on the CPU, or on the kinds of device that it came from.

    Raises:
        ValueError: there is none; says so when the session has to do without the store's file.
    """
    store = STORE.open()
    try:
        return store.get(name, restore_devices)
    except KeyError:
        held = "Choose one from the list." if store.persistent else "The store is in memory only: see the log."
        raise ValueError(f"No embedding is stored as {name!r}. {held}") from None


def blocked(reason: str) -> Any:
    """An output whose use stops with this reason."""
    try:
        from comfy_execution.graph_utils import ExecutionBlocker  # type: ignore[import-not-found]
    except ImportError:
        return None
    return ExecutionBlocker(reason)


NODES = [
    WanVideoEmbeddingDatabase,
    WanVideoStoreEmbedding,
    WanVideoLoadEmbedding,
    WanVideoSearchEmbeddings,
]
