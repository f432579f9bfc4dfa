"""Nodes that share stored embeddings as files."""

from __future__ import annotations

import re
import time
from collections.abc import Container
from pathlib import Path
from typing import Any

from comfy_api.latest import io

from .sockets import CATEGORY, errors_named
from .store import split_words
from .store_access import EXCHANGE_FOLDER, STORE, export_folder, import_folder

FAMILY = f"{CATEGORY}/Store"
SUFFIXES = (".safetensors", ".parquet")
MAX_STEM_BYTES = 100
"""File systems count bytes, of which a letter may have three."""

NO_FILES = f"(no files in input/{EXCHANGE_FOLDER})"


class WanVideoExportEmbeddings(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
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
                    tooltip="safetensors: one file. safetensors_each: one per embedding. parquet: a table of token "
                    "rows for other programs, and a second one of the recorded operations.",
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
            from ..storage import exchange, parquet, selection

            stored = set(store.names())
            wanted = split_names(names, stored)
            missing = sorted(set(wanted) - stored)
            if missing:
                raise ValueError(f"Not stored: {', '.join(missing)}.")
            chosen = selection.list_embeddings(
                store, names=wanted or None, named_only=True, tag=tag.strip() or None, order="name"
            )
            if not chosen:
                raise ValueError("No named embedding fits. Store one first, or change names and tag.")
            if format == "safetensors":
                files = [
                    exchange.export_safetensors(store, batch, new_file(filename_prefix, ".safetensors"))
                    for batch in exchange.batches(chosen, exchange.EXPORT_BYTES)
                ]
            elif format == "safetensors_each":
                files = [
                    exchange.export_safetensors(store, [e], new_file(f"{filename_prefix}_{e.name}", ".safetensors"))
                    for e in chosen
                ]
            else:
                files = [
                    parquet.export_parquet(store, batch, new_file(filename_prefix, ".parquet"))
                    for batch in exchange.batches(chosen, parquet.EXPORT_BYTES)
                ]
                operations = files[0].with_name(f"{files[0].stem}.operations.parquet")
                files.append(parquet.export_operations(store, operations))
        lines = [f"Exported {len(chosen)} embedding(s):", *(f"output/{EXCHANGE_FOLDER}/{f.name}" for f in files)]
        text = "\n".join(lines)
        return io.NodeOutput(text, ui={"text": (text,)})


class WanVideoImportEmbeddings(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="WanVideoImportEmbeddings",
            display_name="WanVideo Import Embeddings",
            category=FAMILY,
            description=f"Stores the embeddings of a file in input/{EXCHANGE_FOLDER}.",
            is_output_node=True,
            inputs=[
                io.Combo.Input(
                    "file",
                    options=importable() or [NO_FILES],
                    tooltip=f"safetensors and Parquet files in input/{EXCHANGE_FOLDER}. Press R to read it again.",
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
                raise ValueError(f"No such file in input/{EXCHANGE_FOLDER}: {file}.")
            path = import_folder() / file
            store = STORE.open()
            from ..storage import exchange, parquet

            read = parquet.import_parquet if path.suffix == ".parquet" else exchange.import_safetensors
            found = read(store, path, replace)
        text = f"Imported {len(found.ids)} embedding(s) from {file}: {', '.join(found.names) or 'without names'}."
        return io.NodeOutput(text, "\n".join(found.names), ui={"text": (text,)})


def importable() -> list[str]:
    """Files that may be imported: directly in the folder, of a known kind, not links that lead out of it."""
    folder = import_folder()
    if not folder.is_dir():
        return []
    root = folder.resolve()
    return sorted(
        f.name
        for f in folder.iterdir()
        if f.suffix in SUFFIXES and not f.name.endswith(".operations.parquet") and f.is_file()
        if f.resolve().parent == root
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
