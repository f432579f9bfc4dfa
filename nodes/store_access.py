"""The one store of this ComfyUI: where it is, and opening it at its first use."""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor, wait
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from ..storage.names import read_names
from ..storage.writer import MAX_WAITING_BYTES, QueueFullError

if TYPE_CHECKING:
    from ..storage import EmbeddingStore

log = logging.getLogger("wanvideo_activation_editor")
T = TypeVar("T")

ENVIRONMENT = "WAN_ACTIVATION_STORE"
"""Path of the store's file or of a folder for it; `off` keeps embeddings in memory only."""

SYSTEM_USER = "wanvideo_activation_editor"
FILE_NAME = "embeddings.duckdb"
EXCHANGE_FOLDER = "wanvideo_embeddings"


def store_path() -> Path | None:
    """File of the store: the environment variable, else ComfyUI's user directory; None for memory only.

    The directory is a system user's (`user/__wanvideo_activation_editor`), which ComfyUI does not serve over HTTP.
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
    """Opens the store once, when it is first asked for; again only if the environment names another file."""

    def __init__(self) -> None:
        self._opening = threading.Lock()
        self._store: EmbeddingStore | None = None
        self._path: Path | None = None
        self._queue = threading.Lock()  # held for moments only: a node that records waits for nothing else
        self._worker: ThreadPoolExecutor | None = None
        self._last: Future[Any] | None = None
        self._waiting_bytes = 0
        self._said_full = False

    @property
    def opened(self) -> EmbeddingStore | None:
        """The store if it is open already."""
        return self._store

    def open(self) -> EmbeddingStore:
        """The store, with all in it that was handed over before; one in memory when another process has the file
        (said once, in the log). Not for a task of `later`.

        Raises:
            RuntimeError: the packages duckdb and zstandard are missing.
        """
        last = self._last
        if last is not None:
            wait([last])
        return self._open()

    def _open(self) -> EmbeddingStore:
        path = store_path()
        with self._opening:
            if self._store is not None and self._path == path:
                return self._store
            try:
                from ..storage import EmbeddingStore
            except ImportError as error:
                raise RuntimeError(
                    f"The embedding store needs the Python package {error.name}. Install the pack's requirements.txt."
                ) from error
            if self._store is not None:
                self._store.close()
            self._store = EmbeddingStore(None) if path is None else EmbeddingStore.open_or_memory(path)
            self._path = path
            return self._store

    def later(self, what: str, task: Callable[[EmbeddingStore], T], size: int = 0) -> Future[T]:
        """Run a task, which holds `size` bytes until it has run, with the store on a thread of its own.

        Tasks run in the order of the calls. Returns at once, also while the store is being opened. A failure
        becomes a line in the log that names `what` was to be recorded.

        Raises:
            QueueFullError: the tasks that wait hold too many bytes already; the log says so once until they have run.
        """
        with self._queue:
            if self._waiting_bytes and self._waiting_bytes + size > MAX_WAITING_BYTES:
                text = f"{self._waiting_bytes >> 20} MB are waiting to be written. Nothing is recorded until they are."
                if not self._said_full:
                    log.warning("Embedding store: %s", text)
                self._said_full = True
                raise QueueFullError(text)
            self._said_full = self._said_full and self._waiting_bytes > 0
            self._waiting_bytes += size
            if self._worker is None:
                self._worker = ThreadPoolExecutor(1, thread_name_prefix="embedding-store")
            future = self._worker.submit(self._run, what, task, size)
            self._last = future
            return future

    def _run(self, what: str, task: Callable[[EmbeddingStore], T], size: int) -> T:
        try:
            return task(self._open())
        except Exception as error:
            log.warning("Embedding store: %s was not recorded: %s", what, error)
            raise
        finally:
            with self._queue:
                self._waiting_bytes -= size

    def names(self) -> list[str]:
        """Names for a menu. The server asks for them: opens nothing and waits for nothing.

        In a session that has to do without the file they include the file's, so that choosing one says why.
        """
        path, store = store_path(), self._store if self._path == store_path() else None
        names = set() if store is None else set(store.index.names)
        if path is not None and (store is None or not store.persistent):
            names.update(read_names(path))
        return sorted(names)

    def close(self) -> None:
        """Write what is waiting and close the store; the next use opens it again."""
        with self._queue:
            worker, self._worker, self._last = self._worker, None, None
        if worker is not None:
            worker.shutdown(wait=True)
        with self._opening:
            if self._store is not None:
                self._store.close()
            self._store, self._path = None, None


STORE = StoreHandle()
