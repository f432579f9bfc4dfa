"""The one store of this ComfyUI: where it is, opening it at its first use, and the worker that records."""

from __future__ import annotations

import contextlib
import logging
import os
import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor, wait
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from ..storage.errors import LockedError, StoreError
from ..storage.text import plain

if TYPE_CHECKING:
    from ..storage.store import EmbeddingStore

log = logging.getLogger("wanvideo_activation_editor")
T = TypeVar("T")

ENVIRONMENT = "WAN_ACTIVATION_STORE"
"""Path of the store's file or of a folder for it; `off` keeps nothing."""

SYSTEM_USER = "wanvideo_activation_editor"
FILE_NAME = "embeddings.duckdb"
EXCHANGE_FOLDER = "wanvideo_embeddings"
MAX_WAITING_BYTES = 64 << 20
LOCK_RETRIES, LOCK_WAIT = 3, 0.1


class QueueFullError(RuntimeError):
    """Too much waits to be recorded."""


def store_path() -> Path | None:
    """File of the store: the environment variable, else ComfyUI's user directory; None when it is off.

    The directory is a system user's (`user/__wanvideo_activation_editor`), which ComfyUI does not serve over HTTP.
    All users of a ComfyUI with --multi-user share it.
    """
    chosen = os.environ.get(ENVIRONMENT, "").strip()
    if chosen.lower() == "off":
        return None
    if chosen:
        path = Path(chosen).expanduser().absolute()
        return path / FILE_NAME if path.is_dir() or not path.suffix else path
    return user_folder() / FILE_NAME


def user_folder() -> Path:
    """The pack's part of ComfyUI's user directory."""
    import folder_paths

    if hasattr(folder_paths, "get_system_user_directory"):
        return Path(folder_paths.get_system_user_directory(SYSTEM_USER))
    return Path(folder_paths.get_user_directory()) / f"__{SYSTEM_USER}"


def export_folder() -> Path:
    """`output/wanvideo_embeddings`; made when something is exported."""
    import folder_paths

    return Path(folder_paths.get_output_directory()) / EXCHANGE_FOLDER


def import_folder() -> Path:
    """`input/wanvideo_embeddings`: the only place that files are imported from."""
    import folder_paths

    return Path(folder_paths.get_input_directory()) / EXCHANGE_FOLDER


class StoreHandle:
    """Opens the store when it is first asked for; again when the environment names another file, or it broke."""

    def __init__(self) -> None:
        self._opening = threading.Lock()
        self._store: EmbeddingStore | None = None
        self._path: Path | None = None
        self._queue = threading.Lock()  # held for moments only: a node that records waits for nothing else
        self._worker: ThreadPoolExecutor | None = None
        self._last: Future[Any] | None = None
        self._waiting_bytes = 0
        self._said: str | None = None
        self._listed: tuple[Any, list[str]] = (None, [])

    @property
    def opened(self) -> EmbeddingStore | None:
        """The store if it is open already."""
        return self._store

    def open(self) -> EmbeddingStore:
        """The store, with all in it that was handed over before. Not for a task of `later`.

        Raises:
            RuntimeError: the packages duckdb and zstandard are missing.
            StoreError: it is off, another process has it (whose number is named), or it cannot be opened.
        """
        last = self._last
        if last is not None:
            wait([last])
        return self._open()

    def _open(self) -> EmbeddingStore:
        path = store_path()
        with self._opening:
            if self._store is not None and self._path == path and not self._store.database.broken:
                return self._store
            if path is None:
                raise StoreError(f"The embedding store is off ({ENVIRONMENT}=off).")
            if self._store is not None:
                self._store.close()
                self._store = None
            self._store, self._path = _opened(path), path
            return self._store

    def later(self, what: str, task: Callable[[EmbeddingStore], T], size: int = 0) -> Future[T | None]:
        """Run a task, which holds `size` bytes until it has run, with the store on a thread of its own.

        Tasks run in the order of the calls. Returns at once, also while the store is being opened. A failure becomes a
        line in the log that names `what` was to be recorded; a store that cannot be opened becomes one line in all.

        Raises:
            QueueFullError: the tasks that wait hold too many bytes already; the log says so once until they have run.
        """
        with self._queue:
            if self._waiting_bytes and self._waiting_bytes + size > MAX_WAITING_BYTES:
                self._say("tasks wait to be written. Nothing is recorded until they are.", "full")
                raise QueueFullError
            self._said = None if self._said == "full" and not self._waiting_bytes else self._said
            self._waiting_bytes += size
            if self._worker is None:
                self._worker = ThreadPoolExecutor(1, thread_name_prefix="embedding-store")
            future = self._worker.submit(self._run, what, task, size)
            self._last = future
            return future

    def _run(self, what: str, task: Callable[[EmbeddingStore], T], size: int) -> T | None:
        try:
            try:
                store = self._open()
            except (StoreError, RuntimeError) as error:
                self._say(f"nothing is recorded: {error}", str(error))
                return None
            self._said = None
            return task(store)
        except Exception as error:
            log.warning("Embedding store: %s was not recorded: %s", plain(what, 80), plain(error))
            return None
        finally:
            with self._queue:
                self._waiting_bytes -= size

    def _say(self, text: str, once: str) -> None:
        if self._said != once and store_path() is not None:
            log.warning("Embedding store: %s", plain(text))
        self._said = once

    def names(self) -> list[str]:
        """Names for a menu; empty when the store cannot be opened. One that is not in use is closed again at once, so
        that another ComfyUI can have it."""
        path = store_path()
        with self._opening:
            if path is None or not path.is_file():
                return []
            if self._store is not None and self._path == path:
                with contextlib.suppress(StoreError):
                    return self._store.names()
                return []
            state = [
                (f, s.st_mtime_ns, s.st_size) for f in (path, Path(f"{path}.wal")) if f.exists() for s in [f.stat()]
            ]
            if state != self._listed[0]:
                with contextlib.suppress(StoreError, RuntimeError), _opened(path) as store:
                    self._listed = state, store.names()
            return self._listed[1]

    def close(self) -> None:
        """Write what is waiting and close the store; the next use opens it again."""
        with self._queue:
            worker, self._worker, self._last = self._worker, None, None
        if worker is not None:
            worker.shutdown(wait=True)
        with self._opening:
            if self._store is not None:
                self._store.close()
            self._store, self._path, self._listed, self._said = None, None, (None, []), None


def _opened(path: Path) -> EmbeddingStore:
    """Open the file; a lock is waited for 0.3 s, in case its holder is just closing."""
    try:
        from ..storage.store import EmbeddingStore
    except ImportError as error:
        raise RuntimeError(
            f"The embedding store needs the Python package {error.name}. Install the pack's requirements.txt."
        ) from error
    for _ in range(LOCK_RETRIES - 1):
        with contextlib.suppress(LockedError):
            return EmbeddingStore(path)
        time.sleep(LOCK_WAIT)
    return EmbeddingStore(path)


def progress_bar() -> Callable[[int, int], None]:
    """Shows (done, in all) in ComfyUI and ends the work when the run is interrupted; nothing outside of ComfyUI."""
    utils: Any = sys.modules.get("comfy.utils")
    management: Any = sys.modules.get("comfy.model_management")
    bar = utils.ProgressBar(100) if utils is not None else None

    def show(done: int, total: int) -> None:
        if management is not None:
            management.throw_exception_if_processing_interrupted()
        if bar is not None:
            bar.update_absolute(round(100 * done / max(total, 1)), 100)

    return show


STORE = StoreHandle()
