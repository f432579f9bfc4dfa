"""What can go wrong in the store. Every message says what is wrong and what to do."""

from __future__ import annotations


class StoreError(RuntimeError):
    """The store cannot do what was asked."""


class DamagedError(StoreError):
    """Stored bytes fail their checksum or contradict their description; they are never returned as data."""


class LockedError(StoreError):
    """Another process, or this one, has the store open."""


class UnsupportedError(StoreError):
    """A value, a text or a file that this version cannot store or read."""
