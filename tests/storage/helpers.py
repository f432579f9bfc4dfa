"""Values and comparisons that the storage tests share."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import torch

PACKAGE_ROOT = Path(__file__).resolve().parents[2]


def randn(rows: int, columns: int = 64, seed: int = 0, dtype: torch.dtype = torch.bfloat16) -> torch.Tensor:
    """[rows, columns], values of a text encoder's size."""
    return (torch.randn(rows, columns, generator=torch.Generator().manual_seed(seed)) * 0.1).to(dtype)


def same_bits(a: torch.Tensor, b: torch.Tensor) -> bool:
    """Equal dtype, shape and bit patterns; tells -0.0 from 0.0 and one NaN from another."""
    if a.dtype != b.dtype or a.shape != b.shape:
        return False
    return bool(torch.equal(a.contiguous().reshape(-1).view(torch.uint8), b.contiguous().reshape(-1).view(torch.uint8)))


def same_value(a: Any, b: Any) -> bool:
    """The same for nested values."""
    if torch.is_tensor(a):
        return torch.is_tensor(b) and same_bits(a, b)
    if isinstance(a, dict):
        return isinstance(b, dict) and a.keys() == b.keys() and all(same_value(a[k], b[k]) for k in a)
    if isinstance(a, list | tuple):
        return type(a) is type(b) and len(a) == len(b) and all(map(same_value, a, b))
    return type(a) is type(b) and a == b


def python(script: str, *args: str, **options: Any) -> subprocess.Popen[str]:
    """A Python process that runs `script` with this package importable."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-c", script, *args]
    return subprocess.Popen(
        command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, **options
    )


def finish(process: subprocess.Popen[str], seconds: float = 60) -> str:
    """Wait for it to end well; its output."""
    out, errors = process.communicate(timeout=seconds)
    assert process.returncode == 0, errors[-3000:]
    return out
