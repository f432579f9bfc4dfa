"""Look after a store of embeddings: one DuckDB file.

The file is --store, else what the environment variable WAN_ACTIVATION_STORE names.
ComfyUI keeps its own at user/__wanvideo_activation_editor/embeddings.duckdb; close
ComfyUI first, since one program has the file at a time.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ..storage.store import EmbeddingStore

VARIABLE = "WAN_ACTIVATION_STORE"


def parser() -> argparse.ArgumentParser:
    made = argparse.ArgumentParser(
        prog="wan-activation store", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    made.add_argument("--store", type=Path, metavar="FILE", help="the store's file")
    actions = made.add_subparsers(dest="action", required=True, metavar="ACTION")

    def action(name: str, text: str) -> argparse.ArgumentParser:
        return actions.add_parser(name, help=text, description=f"{text[0].upper()}{text[1:]}.")

    listed = action("list", "list what is stored, last used first")
    listed.add_argument("--text", default="", help="words in the name, the prompt or the note")
    listed.add_argument("--tag", default="", help="only with this tag")
    listed.add_argument("--limit", type=int, default=50, help="lines (default 50)")
    out = action("export", "write named embeddings to a safetensors file")
    out.add_argument("file", type=Path, help="must not exist; what does not fit goes to FILE_2 and so on")
    out.add_argument("names", nargs="*", help="all named ones when none is given")
    out.add_argument("--tag", default="", help="only with this tag")
    into = action("import", "store the embeddings of a safetensors file, all or none")
    into.add_argument("file", type=Path)
    into.add_argument("--replace", action="store_true", help="names in use move to the file's embeddings")
    action("verify", "read every tensor and compare its checksum")
    saved = action("salvage", "copy what is intact in a damaged store to a new one; only reads the damaged file")
    saved.add_argument("damaged", type=Path, help="the damaged file; what its log FILE.wal holds is read too")
    saved.add_argument("new", type=Path, help="must not exist; needs twice the space of the damaged file beside it")
    gone = action("remove", "remove embeddings by name; without --yes only say what would go")
    gone.add_argument("names", nargs="+")
    gone.add_argument("--yes", action="store_true", help="do it")
    return made


def run(argv: Sequence[str]) -> int:
    made = parser()
    arguments = made.parse_args(argv)
    if arguments.action == "salvage":
        arguments.store = arguments.damaged
    chosen = arguments.store or os.environ.get(VARIABLE, "").strip()
    if not chosen or str(chosen).lower() == "off":
        made.error(f"no store: give --store FILE, or set {VARIABLE}")
    path = Path(chosen).expanduser()
    path = path / "embeddings.duckdb" if path.is_dir() else path
    if arguments.action != "import" and not path.is_file():
        made.error(f"{path} does not exist")
    from ..storage.errors import StoreError
    from ..storage.store import EmbeddingStore

    try:
        if arguments.action == "salvage":
            text, status = _salvage(path, arguments.new)
        else:
            with EmbeddingStore(path) as store:
                text, status = ACTIONS[arguments.action](store, arguments)
    except (StoreError, ValueError, OSError) as error:
        sys.stderr.write(f"wan-activation store: {error}\n")
        return 1
    print(text)
    return int(status)


def _list(store: EmbeddingStore, given: argparse.Namespace) -> tuple[str, int]:
    from ..storage import reports

    found = store.listings(text=given.text, tag=given.tag, order="recent", limit=given.limit)
    return reports.listing(found), 0


def _export(store: EmbeddingStore, given: argparse.Namespace) -> tuple[str, int]:
    from ..storage import exchange

    _check_known(store, given.names)
    target: Path = given.file.with_suffix(".safetensors")
    chosen = store.listings(names=given.names or None, named_only=True, tag=given.tag, order="name")
    if not chosen:
        raise ValueError("no named embedding fits.")
    written = 0

    def new_file() -> Path:
        nonlocal written
        written += 1
        path = target if written == 1 else target.with_stem(f"{target.stem}_{written}")
        if path.exists():
            raise ValueError(f"{path} exists already. Choose another name.")
        return path

    made = exchange.export_safetensors(store, chosen, new_file)
    lines = [f"Exported {len(chosen) - len(made.left_out)} embedding(s) to {', '.join(map(str, made.files))}."]
    lines += [f"Left out: {label}: {problem}" for label, problem in made.left_out]
    return "\n".join(lines), 1 if made.left_out else 0


def _import(store: EmbeddingStore, given: argparse.Namespace) -> tuple[str, int]:
    from ..storage import exchange

    found = exchange.import_safetensors(store, given.file, given.replace)
    lines = [f"Imported {len(found.ids)} embedding(s): {', '.join(found.names) or 'without names'}."]
    if found.left_out:
        lines.append(f"Left out, since they cannot be a Wan prompt: {', '.join(found.left_out)}")
    return "\n".join(lines), 0


def _verify(store: EmbeddingStore, given: argparse.Namespace) -> tuple[str, int]:
    from ..storage import maintenance, reports

    result = maintenance.verify(store)
    return reports.verification(result), 1 if result.damaged else 0


def _salvage(path: Path, new: Path) -> tuple[str, int]:
    from ..storage import reports
    from ..storage.salvage import salvage

    result = salvage(path, new)
    return reports.salvage(result, new), 1 if result.lost or result.missing else 0


def _remove(store: EmbeddingStore, given: argparse.Namespace) -> tuple[str, int]:
    from ..storage import maintenance, reports

    _check_known(store, given.names)
    ids = [maintenance.named(store, name).embedding_id for name in given.names]
    result = maintenance.remove(store, ids, dry_run=not given.yes)
    return reports.removal(result).replace("Turn dry_run off", "Add --yes"), 0


def _check_known(store: EmbeddingStore, names: Sequence[str]) -> None:
    missing = sorted(set(names) - set(store.names()))
    if missing:
        raise ValueError(f"not stored: {', '.join(missing)}.")


ACTIONS: dict[str, Any] = {
    "list": _list,
    "export": _export,
    "import": _import,
    "verify": _verify,
    "remove": _remove,
}
