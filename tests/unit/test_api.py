"""The package's top level."""

from __future__ import annotations

import re
import subprocess
import sys
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path

import pytest
import wanvideo_activation_editor as wae

NOT_LISTED = {"SITES", "sweep"}
PROMISED = (
    *("inject", "steer", "capture", "block_map", "read_words", "control_vector", "calibrate", "learn_tokens", "sweep"),
    *("EmbeddingStore", "Description", "tiny_wan", "__version__"),
)


def test_every_name_of_the_api_is_there():
    names = set(wae.__all__)
    if find_spec("wanvideo_activation_editor.sweeps") is None:
        names.remove("sweep")
    assert all(getattr(wae, name) is not None for name in names)
    assert set(PROMISED) <= set(wae.__all__)
    with pytest.raises(AttributeError, match="has no attribute 'nothing'"):
        _ = wae.nothing


def test_the_names_shown_are_those_of_the_api():
    assert dir(wae) == sorted(wae.__all__)
    assert set(wae.__all__) == {*wae._MODULES, "tiny_wan", "WEB_DIRECTORY", "__version__", "comfy_entrypoint"}


def test_the_reference_lists_every_name_and_what_the_store_returns():
    page = Path(wae.__file__).parent / "docs/reference/python.md"
    listed = re.findall(
        r"^::: wanvideo_activation_editor\.(.+)\.(\w+)$", page.read_text(encoding="utf-8"), re.MULTILINE
    )
    names = {name for module, name in listed if not module.startswith("tiny_wan.")}
    of_host = {"WEB_DIRECTORY", "__version__", "comfy_entrypoint", "tiny_wan"}
    assert set(wae.__all__) - of_host - names == NOT_LISTED
    assert names - set(wae.__all__) == {"Stored", "Listing"}
    for module, name in listed:
        value = getattr(import_module(f"wanvideo_activation_editor.{module}"), name)
        assert value.__doc__ and value.__doc__.strip(), name


def test_importing_the_package_loads_nothing_else():
    code = (
        "import sys; before = set(sys.modules); import wanvideo_activation_editor\n"
        "heavy = {'torch', 'numpy', 'duckdb', 'diffusers', 'comfy_api'} & (set(sys.modules) - before)\n"
        "assert not heavy, heavy"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert out.returncode == 0, out.stderr
