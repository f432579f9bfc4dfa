"""What is intact in a damaged store is copied to a new one; what is not is named. No copy differs."""

from __future__ import annotations

import os
import random
import subprocess
import sys
from pathlib import Path

import duckdb
import pytest
import torch
from wanvideo_activation_editor import commands
from wanvideo_activation_editor.storage import blocks
from wanvideo_activation_editor.storage.codec import encode
from wanvideo_activation_editor.storage.errors import DamagedError, LockedError, StoreError
from wanvideo_activation_editor.storage.records import Description, EmbeddingKey, Operation, OperationInput
from wanvideo_activation_editor.storage.salvage import Salvaged, salvage
from wanvideo_activation_editor.storage.store import EmbeddingStore

from .helpers import finish, python, randn, same_bits

COUNT = 20
FILL = f"""
import os, sys
sys.path.insert(0, {str(Path(__file__).parents[2])!r})
from tests.storage.test_salvage import fill
fill(sys.argv[1])
os._exit(0)  # all stays in the log
"""


def value(i: int) -> torch.Tensor:
    return randn(60, 512, seed=i)


def fill(path: Path | str) -> EmbeddingStore:
    store = EmbeddingStore(path)
    for i in range(COUNT):
        key = EmbeddingKey(f"prompt {i}", "umt5", "bf16")
        store.put(value(i), Description(f"n{i}", f"prompt {i}", tags=(f"t{i}",), note=f"note {i}", key=key))
    return store


@pytest.fixture(scope="module")
def source(tmp_path_factory) -> bytes:
    path = tmp_path_factory.mktemp("source") / "store.duckdb"
    fill(path).close()
    return path.read_bytes()


def flipped(data: bytes, *bits: int) -> bytes:
    changed = bytearray(data)
    for bit in bits:
        changed[bit // 8] ^= 1 << bit % 8
    return bytes(changed)


def recovered(path: Path, found: Salvaged) -> set[int]:
    """Numbers of the embeddings in the new store, each of which is as it was stored."""
    numbers = set()
    with EmbeddingStore(path) as store:
        for listed in store.listings():
            (i,) = [i for i in range(COUNT) if same_bits(store.load(listed.embedding_id).value, value(i))]
            if "embeddings" not in found.unchecked:
                assert (listed.name, listed.prompt, listed.note) == (f"n{i}", f"prompt {i}", f"note {i}")
                assert list(listed.tags) == [f"t{i}"]
                assert store.find(EmbeddingKey(f"prompt {i}", "umt5", "bf16")).name == f"n{i}"
            numbers.add(i)
        assert store.put(randn(2)) > max((e.embedding_id for e in store.listings()[:-1]), default=0)
        assert len(store.listings()) == len(numbers) + 1 == found.recovered + 1
    return numbers


@pytest.mark.parametrize("change", ["DELETE FROM meta", "UPDATE meta SET value = 'q7'"])
def test_a_store_without_its_newest_number_is_salvaged_whole(tmp_path: Path, source: bytes, change: str):
    path, new = tmp_path / "bad.duckdb", tmp_path / "new.duckdb"
    path.write_bytes(source)
    with EmbeddingStore(path) as store:
        store.record(Operation("difference", [OperationInput("base", randn(9))]))
        operation = [store.record(Operation("difference")) for _ in range(10)][-1]
    with duckdb.connect(str(path)) as db:
        db.execute(f"{change} WHERE key = 'last_id'")
    with pytest.raises(DamagedError, match="salvage"):
        EmbeddingStore(path)
    found = salvage(path, new)
    assert found.recovered == COUNT + 1 and not (found.lost or found.missing)
    with EmbeddingStore(new) as store:
        assert store.record(Operation("difference")) > operation


@pytest.mark.parametrize("trial", range(6))
def test_flipped_bits_in_tensors_lose_those_alone(tmp_path: Path, source: bytes, trial: int):
    chance = random.Random(trial)
    hit = chance.sample(range(COUNT), trial % 3 + 1)
    places = [source.index(encode(value(i)).data[8000:8100]) + chance.randrange(100) for i in hit]
    path, new = tmp_path / "bad.duckdb", tmp_path / "new.duckdb"
    path.write_bytes(flipped(source, *(place * 8 + chance.randrange(8) for place in places)))
    before = path.read_bytes()
    found = salvage(path, new)
    assert path.read_bytes() == before and {f.name for f in tmp_path.iterdir()} == {"bad.duckdb", "new.duckdb"}
    numbers = recovered(new, found)
    assert numbers >= set(range(COUNT)) - set(hit) and found.unchecked == [] == found.missing
    assert sorted(found.lost) == sorted(f"'n{i}'" for i in set(range(COUNT)) - numbers)


@pytest.mark.parametrize("trial", range(8))
def test_flipped_bits_in_tables_are_told_and_no_value_differs(tmp_path: Path, source: bytes, trial: int):
    """One, three or nine bits among the bytes in use of the headers and of the blocks that hold no tensors."""
    chance = random.Random(trial)
    starts = [0, 4096, 8192, *range(3 * 4096, len(source), blocks.BLOCK)]
    some = [source[a:b] for a, b in zip(starts, [*starts[1:], len(source)], strict=True)]
    used = [a + i for a, block in zip(starts, some, strict=True) if block.count(0) > 0.15 * len(block)
            for i, byte in enumerate(block) if byte]  # fmt: skip
    places = chance.sample(used, (1, 3, 9)[trial % 3])
    path, new = tmp_path / "bad.duckdb", tmp_path / "new.duckdb"
    path.write_bytes(flipped(source, *(place * 8 + chance.randrange(8) for place in places)))
    try:
        found = salvage(path, new)
    except StoreError as error:
        assert str(path) in str(error) and not new.exists()
        return
    numbers = recovered(new, found)
    assert len(numbers) == COUNT or found.lost or "embeddings" in found.missing


@pytest.mark.parametrize("trial", range(4))
def test_flipped_bits_in_the_log_lose_little_and_are_told(tmp_path: Path, trial: int):
    path, new, chance = tmp_path / "bad.duckdb", tmp_path / "new.duckdb", random.Random(trial)
    finish(python(FILL, str(path)))
    log = tmp_path / "bad.duckdb.wal"
    data = log.read_bytes()
    log.write_bytes(flipped(data, *(chance.randrange(len(data) * 8) for _ in range(trial))))
    found = salvage(path, new)
    numbers = recovered(new, found)
    assert len(numbers) == COUNT or found.missing
    assert trial or not found.missing


def test_one_flipped_bit_is_corrected_where_only_one_word_explains_the_checksum(tmp_path: Path, source: bytes):
    """Bits 0 to 23 of a word of a tensor; the checksum of a block; nothing in a file that is whole."""
    path, chance = tmp_path / "store.duckdb", random.Random(5)
    path.write_bytes(source)
    assert blocks.mend_file(path) == {} and path.read_bytes() == source
    for i in range(COUNT):
        word = (source.index(encode(value(i)).data[8000:8100]) - 3 * 4096) // 8
        path.write_bytes(flipped(source, (3 * 4096 + word * 8) * 8 + chance.randrange(24)))
        assert blocks.mend_file(path) == {} and path.read_bytes() == source
    path.write_bytes(flipped(source, 3 * 4096 * 8 + 2))
    assert blocks.mend_file(path) == {} and path.read_bytes() == source


def test_what_cannot_be_salvaged_is_refused_by_a_true_message(tmp_path: Path, source: bytes):
    path, new = tmp_path / "bad.duckdb", tmp_path / "new.duckdb"
    for content in (b"", b"not a database" * 100_000, bytes(1 << 20)):
        path.write_bytes(content)
        with pytest.raises(DamagedError, match="no block with a checksum"):
            salvage(path, new)
    path.write_bytes(source[: len(source) // 2])
    try:
        assert recovered(new, salvage(path, new)) <= set(range(COUNT))
    except DamagedError as error:
        assert "Nothing of" in str(error) and not new.exists()
    new.write_bytes(b"mine")
    with pytest.raises(StoreError, match="exists already"):
        salvage(path, new)
    assert new.read_bytes() == b"mine"
    with pytest.raises(StoreError, match="could not be copied"):
        salvage(path, tmp_path / "nowhere" / "new.duckdb")


def test_every_length_of_a_cut_file_is_refused_or_told_by_a_message_that_names_salvage(tmp_path: Path, source: bytes):
    chance, path = random.Random(2), tmp_path / "cut.duckdb"
    for length in (1, 4095, 4096, 8192, 12288, 12289, *(chance.randrange(len(source)) for _ in range(12))):
        path.write_bytes(source)
        os.truncate(path, length)
        try:
            with EmbeddingStore(path) as store:
                for name in store.names():
                    store.get(name)
            raise AssertionError(f"{length} bytes of {len(source)} are all that is needed")
        except StoreError as error:
            assert any(said in str(error) for said in ("is cut off: it ends at byte", "is damaged"))
            assert "wan-activation store salvage" in str(error)
        assert path.stat().st_size == length


def test_the_command_copies_what_is_intact_and_names_the_rest(tmp_path: Path, source: bytes, capsys):
    path, new = tmp_path / "bad.duckdb", tmp_path / "new.duckdb"
    place = source.index(encode(value(3)).data[8000:8100])
    path.write_bytes(flipped(source, place * 8, place * 8 + 777))
    with EmbeddingStore(path) as store, pytest.raises(StoreError, match="wan-activation store salvage FILE NEW"):
        store.get("n3")
    status = commands.main(["store", "salvage", str(path), str(new)])
    said = capsys.readouterr().out
    assert status == 1 and f"Copied {COUNT - 1} embedding(s)" in said and "left out, 1: 'n3'" in said
    with EmbeddingStore(new) as store:
        assert len(store.names()) == COUNT - 1


def test_an_open_store_is_refused_and_keeps_its_lock(tmp_path, source):
    path = tmp_path / "store.duckdb"
    path.write_bytes(source)
    with EmbeddingStore(path):
        with pytest.raises(LockedError, match="open in this process"):
            salvage(path, tmp_path / "new.duckdb")
        other = "import sys; from tests.storage.test_salvage import salvage; from pathlib import Path; "
        command = f"{other}salvage(Path(sys.argv[1]), Path(sys.argv[2]))"
        found = subprocess.run(
            [sys.executable, "-c", command, path, tmp_path / "new.duckdb"],
            capture_output=True, text=True, check=False, cwd=Path(__file__).parents[2],
        )  # fmt: skip
        assert "in use by another process" in found.stderr
    assert sorted(p.name for p in tmp_path.iterdir() if p.name.startswith("new")) == []


def test_changes_that_a_cut_log_has_lost_are_told(tmp_path):
    path = tmp_path / "store.duckdb"
    finish(python(FILL, path))
    log = path.with_name("store.duckdb.wal")
    log.unlink()
    EmbeddingStore(tmp_path / "empty.duckdb").close()
    path.write_bytes((tmp_path / "empty.duckdb").read_bytes())
    found = salvage(path, tmp_path / "new.duckdb")
    assert found.recovered == 0 and found.missing == ["the last changes, which the log has lost"]


def test_what_stands_where_the_new_store_goes_is_refused(tmp_path, source):
    path = tmp_path / "store.duckdb"
    path.write_bytes(source)
    (tmp_path / "new.duckdb.wal").touch()
    with pytest.raises(StoreError, match=r"new.duckdb.wal exists already"):
        salvage(path, tmp_path / "new.duckdb")


@pytest.mark.skipif(sys.platform != "linux" or os.geteuid() != 0, reason="mounts a small disk")
@pytest.mark.parametrize("times", [0.5, 1.3, 1.9])
def test_a_full_disk_is_told_and_nothing_is_left_there(tmp_path: Path, source: bytes, times: float):
    path, disk = tmp_path / "store.duckdb", tmp_path / "disk"
    path.write_bytes(source)
    disk.mkdir()
    size = f"size={int(len(source) * times) // 1024}k"
    if subprocess.run(["mount", "-t", "tmpfs", "-o", size, "tmpfs", str(disk)], check=False).returncode:
        pytest.skip("cannot mount")
    try:
        with pytest.raises(StoreError, match=r"full|No space left"):
            salvage(path, disk / "new.duckdb")
        assert list(disk.iterdir()) == []
    finally:
        subprocess.run(["umount", "-l", str(disk)], check=False)
