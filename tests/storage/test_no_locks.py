"""A folder whose file system has no locks, as some network drives: refused in one line, and left as it is."""

from __future__ import annotations

import errno
import hashlib
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from wanvideo_activation_editor.storage.records import Description
from wanvideo_activation_editor.storage.store import EmbeddingStore

# Each way of asking for a lock fails with the number in NO_LOCKS, in a process that has this library in LD_PRELOAD.
SHIM = r"""
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdlib.h>
#define ASKS(cmd) ((cmd) == F_SETLK || (cmd) == F_SETLKW || (cmd) == F_OFD_SETLK)
#define WITHOUT(name) int name(int fd, int cmd, ...) { \
    va_list all; va_start(all, cmd); void *given = va_arg(all, void *); va_end(all); \
    if (ASKS(cmd)) { errno = atoi(getenv("NO_LOCKS")); return -1; } \
    int (*own)(int, int, ...) = dlsym(RTLD_NEXT, #name); return own(fd, cmd, given); }
WITHOUT(fcntl)
WITHOUT(fcntl64)
int flock(int fd, int operation) { errno = atoi(getenv("NO_LOCKS")); return -1; }
"""
OPEN = """
import sys
from wanvideo_activation_editor.storage.errors import StoreError
from wanvideo_activation_editor.storage.store import EmbeddingStore
try:
    EmbeddingStore(sys.argv[1])
except StoreError as error:
    print(type(error).__name__, error)
"""


@pytest.fixture(scope="module")
def shim(tmp_path_factory: pytest.TempPathFactory) -> Path:
    compiler = shutil.which("cc") or shutil.which("gcc")
    if sys.platform != "linux" or compiler is None:
        pytest.skip("needs Linux and a C compiler")
    folder = tmp_path_factory.mktemp("shim")
    (folder / "shim.c").write_text(SHIM)
    library = folder / "shim.so"
    subprocess.run([compiler, "-shared", "-fPIC", "-o", library, folder / "shim.c", "-ldl"], check=True)
    return library


def said(shim: Path, path: Path, number: int) -> str:
    """What another process says that opens a store without locks."""
    environment = {**os.environ, "LD_PRELOAD": str(shim), "NO_LOCKS": str(number)}
    made = subprocess.run([sys.executable, "-c", OPEN, path], env=environment, capture_output=True, text=True)
    assert made.returncode == 0, made.stderr
    return made.stdout


def files(folder: Path) -> dict[str, str]:
    return {f.name: hashlib.sha256(f.read_bytes()).hexdigest() for f in sorted(folder.iterdir())}


@pytest.mark.parametrize("number", [errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOSYS])
def test_a_store_in_a_folder_without_locks_is_named_and_left_as_it_is(shim: Path, tmp_path: Path, number: int):
    path = tmp_path / "store.duckdb"
    with EmbeddingStore(path) as store:
        store.put(torch.ones(3, 8), Description("castle"))
    before = files(tmp_path)
    for _ in range(2):
        text = said(shim, path, number)
        assert "no file locks" in text and "WAN_ACTIVATION_STORE" in text and len(text.splitlines()) == 1
        assert "in use" not in text and "damaged" not in text
    assert files(tmp_path) == before
    with EmbeddingStore(path) as store:
        assert store.names() == ["castle"]


@pytest.mark.parametrize("number", [errno.ENOLCK, errno.EOPNOTSUPP])
def test_no_file_is_left_in_an_empty_folder_without_locks(shim: Path, tmp_path: Path, number: int):
    assert "no file locks" in said(shim, tmp_path / "store.duckdb", number)
    assert files(tmp_path) == {}
