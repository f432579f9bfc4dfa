"""DuckDB's checksums: damaged blocks of a file, and damaged entries of its log, corrected or at least made readable.

DuckDB 1.5 and 2.0 write three headers of 4096 bytes, then blocks of 256 KB: each a checksum of 8 bytes and the bytes
that it is of. An entry of the log is its size, its checksum and its bytes (src/storage/single_file_block_manager.cpp,
write_ahead_log.cpp and src/common/checksum.cpp of github.com/duckdb/duckdb).

The checksum is the exclusive or of all words of 8 bytes, each times an odd number. So the word that would make it right
can be computed at every place, and one that differs from what is there by one bit is the damage, if there is no other
such place. A bit among the upper 24 of a word changes few bits of its product, which other words can explain as well;
there nothing is corrected.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from .errors import DamagedError
from .text import plain

HEADER, BLOCK = 4096, 1 << 18
CERTAIN = np.uint64(1 << 40)
_FACTOR, _START = np.uint64(0xBF58476D1CE4E5B9), np.uint64(5381)
_INVERSE = np.uint64(pow(0xBF58476D1CE4E5B9, -1, 1 << 64))
_REST, _SEED, _WORD = 0xC6A4A7935BD1E995, 0xE17A1465, (1 << 64) - 1

Doubtful = dict[int, int]
"""Place in a file of each checksum that does not fit, and the checksum of what stands there."""


def mend_file(path: Path) -> Doubtful:
    """Correct the blocks of a file, in place; those that cannot be.

    Raises:
        DamagedError: no block has the checksum that is expected here.
    """
    size = path.stat().st_size
    data = np.memmap(path, np.uint8, "r+") if size else np.empty(0, np.uint8)
    places = [(i * HEADER, HEADER) for i in range(3)]
    places += [(i, BLOCK) for i in range(3 * HEADER, size, BLOCK)]
    whole = [(start, data[start : start + length]) for start, length in places if start + length <= size]
    doubtful = {start: right for start, block in whole if (right := _mend(block[8:], block[:8])) is not None}
    if len(doubtful) == len(whole):
        raise DamagedError(f"{plain(path)} has no block with a checksum of DuckDB 1.5 or 2.0; nothing can be salvaged.")
    return doubtful


def mend_log(path: Path) -> Doubtful:
    """The same for the entries of a log; what follows an entry whose size is damaged is cut off."""
    data = np.fromfile(path, np.uint8)
    text = data.tobytes()
    doubtful: Doubtful = {}
    at = text.find(b"\xff\xff") + 2  # the end of the header, whose form depends on the version
    while at + 16 <= len(data):
        size = int.from_bytes(text[at : at + 8], "little")
        if at + 16 + size > len(data):
            break
        right = _mend(data[at + 16 : at + 16 + size], data[at + 8 : at + 16])
        if right is not None:
            doubtful[at + 8] = right
        at += 16 + size
    path.write_bytes(data[:at].tobytes())
    return doubtful


def overwrite(path: Path, doubtful: Doubtful) -> None:
    """Make the checksums right, so that DuckDB reads what stands there."""
    with path.open("r+b") as file:
        for place, checksum in doubtful.items():
            file.seek(place)
            file.write(checksum.to_bytes(8, "little"))


def _mend(payload: Any, checksum: Any) -> int | None:
    """Correct one bit of the payload or of its checksum, in place. What the checksum should be if that is not all."""
    end = len(payload) // 8 * 8
    words, stored = payload[:end].view("<u8"), checksum.view("<u8")
    products = words * _FACTOR
    right = np.bitwise_xor.reduce(products) ^ _START ^ np.uint64(_rest(payload[end:].tobytes()))
    wrong = right ^ stored[0]
    if not wrong:
        return None
    change = (products ^ wrong) * _INVERSE ^ words
    flipped = np.flatnonzero(_is_one_bit(change))
    if len(flipped) == 1 and not _is_one_bit(wrong):
        words[flipped] ^= change[flipped]
    elif not len(flipped) and _is_one_bit(wrong):
        stored[0] = right
    else:
        return int(right)
    return None


def _is_one_bit(change: Any) -> Any:
    return (change & (change - np.uint64(1)) == 0) & (change != 0) & (change < CERTAIN)


def _rest(data: bytes) -> int:
    """What the last 1 to 7 bytes add: MurmurHash64A of them."""
    if not data:
        return 0
    hashed = ((_SEED ^ len(data) * _REST) ^ int.from_bytes(data, "little")) * _REST & _WORD
    hashed = (hashed ^ hashed >> 47) * _REST & _WORD
    return hashed ^ hashed >> 47
