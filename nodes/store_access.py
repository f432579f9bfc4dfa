"""The one store of this ComfyUI: where it is, and opening it at its first use."""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

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
    import folder_paths

    if hasattr(folder_paths, "get_system_user_directory"):
        return Path(folder_paths.get_system_user_directory(SYSTEM_USER)) / FILE_NAME
    return Path(folder_paths.get_user_directory()) / f"__{SYSTEM_USER}" / FILE_NAME


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
        self._lock = threading.Lock()
        self._store: EmbeddingStore | None = None
        self._path: Path | None = None
        self._worker: ThreadPoolExecutor | None = None

    @property
    def opened(self) -> EmbeddingStore | None:
        """The store if it is open already."""
        return self._store

    def open(self) -> EmbeddingStore:
        """The store; one in memory when another process has the file (said once, in the log).

        Raises:
            RuntimeError: the packages duckdb and zstandard are missing.
        """
        path = store_path()
        with self._lock:
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

    def later(self, task: Callable[[EmbeddingStore], T]) -> Future[T]:
        """Run a task with the store on a thread of its own, where opening it keeps nobody waiting."""
        with self._lock:
            if self._worker is None:
                self._worker = ThreadPoolExecutor(1, thread_name_prefix="embedding-store")
            return self._worker.submit(lambda: task(self.open()))

    def names(self) -> list[str]:
        """Names for a menu; reads a small file when the store is not open, and opens nothing."""
        if self._store is not None:
            return self._store.names()
        from ..storage.names import read_names

        path = store_path()
        return [] if path is None else read_names(path)

    def close(self) -> None:
        """Write what is waiting and close the store; the next use opens it again."""
        with self._lock:
            worker, self._worker = self._worker, None
        if worker is not None:
            worker.shutdown(wait=True)
        with self._lock:
            if self._store is not None:
                self._store.close()
            self._store, self._path = None, None


STORE = StoreHandle()


def log_failure(what: str) -> Callable[[Future[Any]], None]:
    """For `Future.add_done_callback`: a failure becomes one line in the log."""

    def done(future: Future[Any]) -> None:
        error = future.exception()
        if error is not None:
            log.warning("Embedding store: %s was not recorded: %s", what, error)

    return done
