"""The package's top level."""

from __future__ import annotations

import subprocess
import sys

import pytest
import wanvideo_activation_editor as wae


def test_every_name_of_the_api_is_there():
    assert all(getattr(wae, name) is not None for name in wae.__all__)
    assert set(wae.__all__) <= set(dir(wae))
    with pytest.raises(AttributeError, match="has no attribute 'nothing'"):
        _ = wae.nothing


def test_importing_the_package_loads_nothing_else():
    code = (
        "import sys; before = set(sys.modules); import wanvideo_activation_editor\n"
        "heavy = {'torch', 'numpy', 'duckdb', 'diffusers', 'comfy_api'} & (set(sys.modules) - before)\n"
        "assert not heavy, heavy"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert out.returncode == 0, out.stderr
