"""Nodes that keep embeddings: the database, storing, loading."""

from __future__ import annotations

import contextlib
import logging
import time
from collections import Counter
from typing import Any

from comfy_api.latest import io

from ..embeddings.text_embeds import read_text_embeds
from ..storage.text import MAX_NAME, plain, shown
from .recording import form_of
from .sockets import CATEGORY, WanVideoTextEmbeds, embeds_template, errors_named, schema
from .store_access import STORE, progress_bar
from .store_values import DEVICES, DTYPES, as_conditioning, as_wrapper_embeds, device_of, fingerprint_of, moved

log = logging.getLogger("wanvideo_activation_editor")

FAMILY = f"{CATEGORY}/Store"
NOTHING = "(nothing stored yet)"
RECENT = 30
ACTIONS = (
    "stats", "cleanup", "list_recent", "performance", "verify", "compact", "delete", "rename", "retag",
)  # fmt: skip

_stored: set[str] = set()
_removals: Counter[str] = Counter()
"""Names that Store Embedding stored, and how often they were found removed since."""


class WanVideoEmbeddingDatabase(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return schema(
            node_id="WanVideoEmbeddingDatabase",
            display_name="WanVideo Embedding Database",
            category=FAMILY,
            description="Reports on the embedding store and keeps it in order.",
            is_output_node=True,
            not_idempotent=True,
            inputs=[
                io.Combo.Input(
                    "action",
                    options=[*ACTIONS],
                    default="stats",
                    tooltip="cleanup removes what is old and little used, verify reads every checksum, compact gives "
                    "free space back to the disk; delete, rename and retag change the embedding in name.",
                ),
                io.Int.Input(
                    "cleanup_days", default=30, min=1, max=365, tooltip="cleanup: not used for more than these days."
                ),
                io.Int.Input(
                    "cleanup_min_access", default=5, min=1, max=100, tooltip="cleanup: read fewer times than this."
                ),
                io.Boolean.Input(
                    "dry_run",
                    default=True,
                    optional=True,
                    tooltip="cleanup, delete, rename, retag: only report what would be done.",
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
                io.String.Input(
                    "name", default="", optional=True, tooltip="delete, rename, retag: the embedding to change."
                ),
                io.String.Input("new_name", default="", optional=True, tooltip="rename: the name that it gets."),
                io.String.Input(
                    "new_tags", default="", optional=True, tooltip="retag: its tags from now on, separated by commas."
                ),
                io.AnyType.Input("after", optional=True, tooltip="Of any type: the report is made once this is there."),
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
        name: str = "",
        new_name: str = "",
        new_tags: str = "",
        after: Any = None,
    ) -> io.NodeOutput:
        with errors_named("WanVideo Embedding Database"):
            if action not in ACTIONS:
                raise ValueError(f"action must be one of {', '.join(ACTIONS)}, not {shown(action)}.")
            store = STORE.open()
            from ..storage import maintenance, reports

            if action == "stats":
                text = reports.stats(store)
            elif action == "cleanup" and size_limit_mb:
                text = reports.removal(maintenance.evict(store, size_limit_mb << 20, dry_run, keep_named))
            elif action == "cleanup":
                found = maintenance.cleanup(store, cleanup_days, cleanup_min_access, dry_run, keep_named)
                text = reports.removal(found)
            elif action == "list_recent":
                store.flush_reads()
                text = reports.listing(store.listings(order="recent", limit=RECENT))
            elif action == "performance":
                text = reports.performance(store)
            elif action == "verify":
                text = reports.verification(maintenance.verify(store, progress_bar()))
            elif action == "compact":
                before, now = store.database.compact(progress_bar())
                text = f"Compacted: {reports.size(before)} before, {reports.size(now)} after."
            else:
                text = _changed(action, name.strip(), new_name, split_words(new_tags), dry_run)
        return io.NodeOutput(text, ui={"text": (text,), "wan_store": (True,)})


def _changed(action: str, name: str, new_name: str, tags: tuple[str, ...], dry_run: bool) -> str:
    """Do what an action does to one embedding; what was done, or would be."""
    store = STORE.open()
    from ..storage import maintenance, reports

    would = "Would be" if dry_run else "Was"
    hint = " Turn dry_run off to do it." if dry_run else ""
    try:
        if action == "delete":
            return reports.removal(maintenance.delete(store, name, dry_run))
        if action == "rename":
            maintenance.rename(store, name, new_name, dry_run)
            return f"{would} renamed: {shown(name)} to {shown(new_name.strip())}.{hint}"
        before = maintenance.retag(store, name, tags, dry_run).tags
    except KeyError:
        raise ValueError(f"No embedding is stored as {shown(name)}.") from None
    texts = [", ".join(plain(tag, 100) for tag in some) or "no tags" for some in (before, tags)]
    return f"{would} retagged: {shown(name)} from {texts[0]} to {texts[1]}.{hint}"


class WanVideoStoreEmbedding(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        embeds = embeds_template()
        return schema(
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
                    options=["half", "exact"],
                    default="half",
                    optional=True,
                    tooltip="half: bf16 and fp16 exactly, fp32 rounded to fp16. exact: bit for bit.",
                ),
            ],
            outputs=[io.MatchType.Output(template=embeds, id="text_embeds", display_name="text_embeds")],
        )

    @classmethod
    def fingerprint_inputs(cls, name: str = "", **kwargs: Any) -> Any:
        """How often the name was removed after it had been stored here; then, and only then, it is stored again."""
        name = str(name).strip()
        with contextlib.suppress(RuntimeError):  # the run says why the store cannot be opened
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
            from ..storage.packing import pack
            from ..storage.records import Description

            if precision not in ("half", "exact"):
                raise ValueError(f"precision must be half or exact, not {shown(precision)}.")
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
                exact=precision == "exact",
            )
            _stored.add(name)
        text = (
            f"Stored as {shown(name, MAX_NAME)}: {len(embeds.prompts)} prompt(s), {list(embeds.token_counts)} tokens."
        )
        return io.NodeOutput(text_embeds, ui={"text": (text,), "wan_store": (True,)})


class WanVideoLoadEmbedding(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        names = STORE.names()
        return schema(
            node_id="WanVideoLoadEmbedding",
            display_name="WanVideo Load Embedding",
            category=FAMILY,
            description="Gives back stored text embeds, for the wrapper and for native models.",
            inputs=[
                io.Combo.Input(
                    "embedding",
                    options=names or [NOTHING],
                    tooltip="Stored embeddings, by name.",
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
        return fingerprint_of(embedding)

    @classmethod
    def execute(cls, embedding: str, device: str, dtype: str) -> io.NodeOutput:
        with errors_named("WanVideo Load Embedding"):
            stored = load_named(embedding, restore_devices=device == "stored")
            value = moved(stored.value, device_of(device), DTYPES[dtype])
            from ..storage.packing import pack

            if any(t.is_floating_point() and t.element_size() == 1 for t in pack(value).tensors):
                raise ValueError(f"{shown(embedding)} is stored as fp8, which no model reads. Choose bf16 in dtype.")
            return io.NodeOutput(as_wrapper_embeds(value), as_conditioning(value), stored.prompt or "")


def checked_name(name: str) -> str:
    """The name without outer blanks. Raises ValueError when it is empty, too long, or has control characters."""
    from ..storage.errors import UnsupportedError
    from ..storage.text import checked_name as checked

    try:
        name = checked(name)
    except UnsupportedError as error:
        raise ValueError(str(error)) from None
    if name == NOTHING:
        raise ValueError(f"name must be another text than {shown(NOTHING)}.")
    return name


def split_words(text: str) -> tuple[str, ...]:
    """Words separated by commas or line ends, each once."""
    return tuple(dict.fromkeys(w for w in (p.strip() for p in text.replace("\n", ",").split(",")) if w))


def load_named(name: str, restore_devices: bool = False) -> Any:
    """The stored embedding of a name; on the CPU, or on the kinds of device that it came from.

    Raises:
        ValueError: there is none.
    """
    try:
        return STORE.open().get(name, restore_devices)
    except KeyError:
        raise ValueError(f"No embedding is stored as {shown(name)}. Choose one from the list.") from None


NODES = [
    WanVideoEmbeddingDatabase,
    WanVideoStoreEmbedding,
    WanVideoLoadEmbedding,
]
