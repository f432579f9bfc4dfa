"""A few of the kills of kills.py."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path


def test_a_killed_sweep_loses_nothing_and_does_nothing_twice():
    script = Path(__file__).parent / "kills.py"
    command = [sys.executable, str(script), "--kills", "3", "--seeds", "1"]
    out = subprocess.run(command, capture_output=True, text=True)
    assert out.returncode == 0, out.stderr[-2000:]
    assert "no cell lost, none sampled twice" in out.stdout
