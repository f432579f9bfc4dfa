"""Packs with the same node ids are named in the log, whichever is loaded first."""

from __future__ import annotations

from pathlib import Path

import pytest

from .conftest import serve
from .server import WRAPPER_NAME, comfyui_path
from .workflows import WrapperHost

PACK = """
class Other:
    RETURN_TYPES = ("STRING",)
    FUNCTION = "run"

    @classmethod
    def INPUT_TYPES(cls):
        return {"required": {}}

    def run(self):
        return ("",)

NODE_CLASS_MAPPINGS = {"%s": Other}
"""


@pytest.fixture(scope="module")
def server(models: Path, tmp_path_factory: pytest.TempPathFactory):
    base = tmp_path_factory.mktemp("conflicts")
    for name, node in {"0-first": "WanVideoInjectionTester", "zz-last": "WanVideoBlockActivationViewer"}.items():
        folder = base / "custom_nodes" / name
        folder.mkdir(parents=True)
        (folder / "__init__.py").write_text(PACK % node)
    yield from serve(base, models, comfyui_path() / "custom_nodes" / WRAPPER_NAME)


def test_packs_with_the_same_ids_are_named_once(server):
    host = WrapperHost(server)
    for _ in range(2):
        host.run().checked()
    lines = [line for line in server.log().splitlines() if "registers the same node ids" in line]
    by_node = {
        node: [line for line in lines if f"({node})" in line]
        for node in ("WanVideoInjectionTester", "WanVideoBlockActivationViewer")
    }
    assert sorted(map(len, by_node.values())) == [1, 1], lines
    for node, pack in {"WanVideoInjectionTester": "0-first", "WanVideoBlockActivationViewer": "zz-last"}.items():
        assert pack in by_node[node][0] and "Disable one of the two packs" in by_node[node][0]
