"""Block selection, edits, and the runtime that applies them while a host samples."""
