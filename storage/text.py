"""Text of users: what the store takes, and how it appears in messages."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from .errors import UnsupportedError

MAX_NAME = 200
MAX_TAG, MAX_TAGS = 100, 50
MAX_TEXT = 20_000
"""Characters of a prompt or a note; the text encoder of Wan reads about 3,000."""
MAX_QUERY, MAX_WORDS = 500, 16


def shown(text: object, limit: int = 80) -> str:
    """Text of a user as it may stand in an error or a log: on one line, of at most `limit` characters, quoted.

    Control characters, marks that change the direction of writing and lone surrogates are escaped: ComfyUI's log
    cannot be written otherwise, and its prompt worker would end.
    """
    return f"'{plain(text, limit)}'"


def not_stored(name: object) -> str:
    """For the KeyError of a name that no embedding has."""
    return f"No embedding is stored as {shown(name)}. EmbeddingStore.names() lists the names that there are."


def plain(text: object, limit: int = 500) -> str:
    """As `shown`, without quotes: for the text of other libraries' errors."""
    whole = text if isinstance(text, str) else str(text)
    cut = whole[:limit]
    line = "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in cut)
    return line if len(cut) == len(whole) else f"{line}... ({len(whole)} characters)"


def checked(label: str, text: str, limit: int = MAX_TEXT) -> str:
    """The text itself.

    Raises:
        UnsupportedError: it is no text, too long, or holds half of a surrogate pair; `label` says where.
    """
    if not isinstance(text, str):
        raise UnsupportedError(f"{label}: expected text, got {type(text).__name__}.")
    if len(text) > limit:
        raise UnsupportedError(f"{label}: {len(text)} characters; at most {limit} can be stored.")
    if any("\ud800" <= c <= "\udfff" for c in text):
        raise UnsupportedError(f"{label}: {shown(text, 40)} holds half of a surrogate pair; type it again.")
    return text


def checked_name(text: str) -> str:
    """A name without outer blanks. Raises UnsupportedError unless it is 1 to 200 printable characters on one line."""
    name = checked("name", text).strip()
    if not 0 < len(name) <= MAX_NAME or any(ord(c) < 32 or ord(c) == 127 for c in name):
        raise UnsupportedError(f"name must be 1 to {MAX_NAME} characters on one line, not {shown(name)}.")
    return name


def checked_tags(tags: object) -> tuple[str, ...]:
    """Tags, each once. Raises UnsupportedError for too many or too long ones, and for what is no list of them."""
    if isinstance(tags, str) or not isinstance(tags, Iterable):
        raise UnsupportedError(f"tags: expected several texts, as in ('gothic', 'night'), got {type(tags).__name__}.")
    found = tuple(dict.fromkeys(checked("tags", tag, MAX_TAG) for tag in tags))
    if len(found) > MAX_TAGS:
        raise UnsupportedError(f"tags: {len(found)} of them; at most {MAX_TAGS} can be stored.")
    return found


def askable(text: str) -> str:
    """A text that can be asked for; one that cannot be stored is nobody's name."""
    return text if text.isascii() else text.encode(errors="replace").decode()


def query_words(text: str) -> list[str]:
    """Words of a search. Raises UnsupportedError for more than a search compares."""
    words = checked("text", text.strip(), MAX_QUERY).split()
    if len(words) > MAX_WORDS:
        raise UnsupportedError(f"text: {len(words)} words; a search compares at most {MAX_WORDS}.")
    return words


def clean_name(text: str) -> str | None:
    """A name made of text from a file; None when nothing is left."""
    kept = "".join(" " if ord(c) < 32 else "?" if "\ud800" <= c <= "\udfff" else c for c in text)
    return kept.strip()[:MAX_NAME].strip() or None


def free_name(name: str, is_taken: Callable[[str], bool]) -> str:
    """The name, or with a number in parentheses where it is taken."""
    candidate, number = name, 2
    while is_taken(candidate):
        end = f" ({number})"
        candidate, number = name[: MAX_NAME - len(end)] + end, number + 1
    return candidate
