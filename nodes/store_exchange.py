"""Nodes that share stored embeddings as files."""

from __future__ import annotations

import re
import time
from collections.abc import Container
from functools import partial
from pathlib import Path
from typing import Any

from comfy_api.latest import io

from ..storage.text import plain, shown
from .sockets import CATEGORY, errors_named, schema
from .store import split_words
from .store_access import EXCHANGE_FOLDER, STORE, export_folder, import_folder, progress_bar

FAMILY = f"{CATEGORY}/Store"
SUFFIX = ".safetensors"
MAX_STEM_BYTES = 100
"""File systems count bytes, of which a letter may have three."""

NO_FILES = f"(no files in input/{EXCHANGE_FOLDER})"


class WanVideoExportEmbeddings(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return schema(
            node_id="WanVideoExportEmbeddings",
            display_name="WanVideo Export Embeddings",
            category=FAMILY,
            description=f"Writes stored embeddings to output/{EXCHANGE_FOLDER}, to share them.",
            is_output_node=True,
            not_idempotent=True,
            inputs=[
                io.String.Input(
                    "names",
                    default="",
                    multiline=True,
                    tooltip="Names, separated by commas or lines; one that has a comma on a line of its own. "
                    "Empty: every named embedding.",
                ),
                io.String.Input("tag", default="", tooltip="Only with this tag."),
                io.Combo.Input(
                    "format",
                    options=["safetensors", "safetensors_each", "parquet"],
                    default="safetensors",
                    tooltip="safetensors: one file. safetensors_each: one per embedding. parquet: tables for "
                    "other programs, without values: what is stored, and the recorded operations.",
                ),
                io.String.Input("filename_prefix", default="embeddings", tooltip="Begin of the file name."),
            ],
            outputs=[io.String.Output(id="report", display_name="report")],
        )

    @classmethod
    def fingerprint_inputs(cls, **kwargs: Any) -> Any:
        return time.time_ns()

    @classmethod
    def execute(cls, names: str, tag: str, format: str, filename_prefix: str) -> io.NodeOutput:
        with errors_named("WanVideo Export Embeddings"):
            store = STORE.open()
            from ..storage import exchange

            stored = set(store.names())
            wanted = split_names(names, stored)
            missing = sorted(set(wanted) - stored)
            if missing:
                more = f" and {len(missing) - 10} more" if len(missing) > 10 else ""
                raise ValueError(f"Not stored: {', '.join(shown(m) for m in missing[:10])}{more}.")
            chosen = store.listings(names=wanted or None, named_only=True, tag=tag.strip(), order="name")
            if not chosen:
                raise ValueError("No named embedding fits. Store one first, or change names and tag.")
            files, left_out = list[Path](), list[tuple[str, str]]()
            if format == "parquet":
                for view in ("listing", "lineage", "operations_by_type", "storage_metrics"):
                    files.append(exchange.export_table(store, view, new_file(f"{filename_prefix}_{view}", ".parquet")))
            else:
                each = format == "safetensors_each"
                for some in [[e] for e in chosen] if each else [chosen]:
                    prefix = f"{filename_prefix}_{some[0].name}" if each else filename_prefix
                    made = exchange.export_safetensors(store, some, partial(new_file, prefix, SUFFIX))
                    files += made.files
                    left_out += made.left_out
        count = len(chosen) - len(left_out)
        lines = [f"Exported {count} embedding(s):", *(f"output/{EXCHANGE_FOLDER}/{f.name}" for f in files)]
        lines += [f"Left out: {shown(label)}: {problem}" for label, problem in left_out[:50]]
        text = "\n".join(lines)
        return io.NodeOutput(text, ui={"text": (text,)})


class WanVideoImportEmbeddings(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return schema(
            node_id="WanVideoImportEmbeddings",
            display_name="WanVideo Import Embeddings",
            category=FAMILY,
            description=f"Stores the embeddings of a file in input/{EXCHANGE_FOLDER}.",
            is_output_node=True,
            inputs=[
                io.Combo.Input(
                    "file",
                    options=importable() or [NO_FILES],
                    tooltip=f"safetensors files in input/{EXCHANGE_FOLDER}. Press R to read it again.",
                ),
                io.Boolean.Input(
                    "replace",
                    default=False,
                    tooltip="Names that are in use: on moves them to the file's embeddings, off adds a number.",
                ),
            ],
            outputs=[
                io.String.Output(id="report", display_name="report"),
                io.String.Output(id="names", display_name="names"),
            ],
        )

    @classmethod
    def fingerprint_inputs(cls, file: str, **kwargs: Any) -> Any:
        path = import_folder() / file
        return (file, path.stat().st_mtime_ns) if file in importable() else file

    @classmethod
    def execute(cls, file: str, replace: bool) -> io.NodeOutput:
        with errors_named("WanVideo Import Embeddings"):
            if file not in importable():
                raise ValueError(f"No such file in input/{EXCHANGE_FOLDER}: {shown(file)}.")
            store = STORE.open()
            from ..storage import exchange

            found = exchange.import_safetensors(store, import_folder() / file, replace, progress_bar())
        shown_names = ", ".join(plain(n, 80) for n in found.names[:50]) or "without names"
        more = f" and {len(found.names) - 50} more" if len(found.names) > 50 else ""
        text = f"Imported {len(found.ids)} embedding(s) from {plain(file, 200)}: {shown_names}{more}."
        if found.left_out:
            text += f"\nLeft out, since they cannot be a Wan prompt: {', '.join(found.left_out[:20])}"
            text += " ..." if len(found.left_out) > 20 else ""
        return io.NodeOutput(text, "\n".join(found.names), ui={"text": (text,), "wan_store": (True,)})


def importable() -> list[str]:
    """Files that may be imported: directly in the folder, of a known kind, not links that lead out of it."""
    folder = import_folder()
    if not folder.is_dir():
        return []
    root = folder.resolve()
    return sorted(
        f.name for f in folder.iterdir() if f.suffix.lower() == SUFFIX and f.is_file() if f.resolve().parent == root
    )


def split_names(text: str, stored: Container[str]) -> list[str]:
    """Names separated by commas or lines; a name that has a comma itself stands on a line of its own."""
    lines = [line.strip() for line in text.splitlines()]
    return [name for line in lines for name in ([line] if line in stored else split_words(line))]


def new_file(prefix: str, suffix: str) -> Path:
    """A file in the export folder that does not exist yet; the prefix can name no other folder."""
    stem = re.sub(r"[^\w\- ]+", "_", prefix).strip(" _")
    stem = stem.encode()[:MAX_STEM_BYTES].decode(errors="ignore").strip(" _") or "embeddings"
    folder = export_folder()
    number = 1
    while (path := folder / f"{stem}_{number:05d}{suffix}").exists():
        number += 1
    return path


NODES = [WanVideoExportEmbeddings, WanVideoImportEmbeddings]
