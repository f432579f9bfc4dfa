"""Where a host's source writes the hidden state other than by calling a block."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

STATE = re.compile(r"x|img|\w*hidden_states")


def writes(files: Iterator[Path]) -> set[str]:
    """Statements that change a hidden state in place, and those in loops over blocks that make a new one.

    Calls of a block itself are left out. A statement is given as `ast.unparse` writes it.
    """
    found: set[str] = set()
    for file in files:
        tree = ast.parse(file.read_text(encoding="utf-8"))
        found |= {ast.unparse(node) for node in ast.walk(tree) if _in_place(node)}
        for loop in ast.walk(tree):
            if isinstance(loop, ast.For) and "blocks" in ast.unparse(loop.iter):
                found |= {ast.unparse(node) for node in ast.walk(loop) if _replaced(node)}
    return found


def _state(node: ast.expr) -> bool:
    """True for a hidden state or a part of it."""
    while isinstance(node, ast.Subscript):
        node = node.value
    return isinstance(node, ast.Name) and STATE.fullmatch(node.id) is not None


def _in_place(node: ast.AST) -> bool:
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
        return re.fullmatch(r"\w*[a-z]_", node.func.attr) is not None and _state(node.func.value)
    if isinstance(node, ast.AugAssign):
        return _state(node.target)
    return isinstance(node, ast.Assign) and any(isinstance(t, ast.Subscript) and _state(t) for t in node.targets)


def _replaced(node: ast.AST) -> bool:
    if not isinstance(node, ast.Assign) or not any(_state(t) for t in node.targets):
        return False
    called = ast.unparse(node.value).partition("(")
    return called[0] != "block" and not called[2].startswith("block, ")  # gradient checkpointing is given the block
