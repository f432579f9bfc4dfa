"""Pictures of every node, as both renderers draw it: python -m tools.screenshots [NodeId ...]

Needs what tests/browser needs. Writes web/docs/images/NodeId.png, which the help pages show, from the classic canvas;
of the nodes in the README also docs/images/NodeId.png, left the classic canvas, right Nodes 2.0.
"""

from __future__ import annotations

import io
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from PIL import Image
from playwright.sync_api import sync_playwright

from tests.browser.conftest import chromium, newest_front_end
from tests.browser.editor import ACTIVATIONS, EDITOR, STRENGTHS, GraphPage, node, workflow
from tests.comfyui import tiny_models
from tests.comfyui.server import WRAPPER_NAME, ComfyServer, comfyui_path
from tests.comfyui.workflows import FOX, Workflow, WrapperHost, edit

REPOSITORY = Path(__file__).resolve().parents[1]
IMAGES, HELP_IMAGES = REPOSITORY / "docs" / "images", REPOSITORY / "web" / "docs" / "images"
IN_README = (ACTIVATIONS, STRENGTHS, EDITOR)
MARGIN = 12

VALUES: Mapping[str, list[Any]] = {
    ACTIVATIONS: ["custom", *[i in (4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 24, 26, 28) for i in range(40)]],
    STRENGTHS: ["gaussian_peak", 0.8, 18, 6.0, 5],
}


def node_ids(server: ComfyServer) -> list[str]:
    """Nodes of this pack."""
    known = server.call("/object_info")
    return sorted(name for name, node in known.items() if node["category"].startswith("WanVideo/Activation Editor"))


def after_a_run(server: ComfyServer) -> tuple[Workflow, int]:
    """A workflow whose editor reports, and the editor's id."""
    flow = Workflow()
    given = edit(block_activations="6-12, 13-22:0.6", injection_strength=0.8, log_level="basic")
    flow.add("TestDigest", samples=WrapperHost(server).branch(flow, FOX, given, steps=6))
    return flow, next(int(k) for k, n in flow.items() if n["class_type"] == EDITOR)


def show(page: GraphPage, kind: str) -> int:
    """Put a node on the page; its id."""
    if kind != EDITOR:
        page.load(workflow(node(kind, VALUES.get(kind), pos=[320, 180])))
        return 1
    flow, editor = after_a_run(page.server)
    page.load(flow)
    page.js("() => app.queuePrompt(0, 1)")
    page.page.wait_for_function(
        "id => [...document.querySelectorAll('.wan-ae-line')].some(e => e.textContent.includes(' steps'))", arg=editor
    )
    return editor


def picture(page: GraphPage, kind: str) -> Image.Image:
    """The node alone, at zoom 1."""
    shown = show(page, kind)
    page.js(
        """id => { const n = app.graph.getNodeById(id), c = app.canvas;
        for (const other of app.graph._nodes) if (other !== n) other.pos = [other.pos[0], other.pos[1] + 5000];
        n.setSize([n.size[0], n.computeSize()[1]]);
        c.links_render_mode = LiteGraph.HIDDEN_LINK; c.deselectAll?.();
        c.ds.scale = 1; c.ds.offset[0] = 400 - n.pos[0]; c.ds.offset[1] = 160 - n.pos[1];
        c.setDirty(true, true); }""",
        shown,
    )
    page.page.mouse.move(5, 450)
    page.page.wait_for_timeout(800)  # switches slide
    if page.vue:
        box = page.page.locator(f'[data-node-id="{shown}"]').bounding_box()
    else:
        x, y, width, height = page.js("id => [...app.graph.getNodeById(id).boundingRect]", shown)
        dx, dy = page.js("() => [...app.canvas.ds.offset]")
        top = page.js("() => app.canvasEl?.getBoundingClientRect().y ?? 0")
        box = {"x": x + dx, "y": y + dy + top, "width": width, "height": height}
    clip = {"x": box["x"] - MARGIN, "y": box["y"] - (MARGIN if page.vue else 1), "width": box["width"] + 2 * MARGIN,
            "height": box["height"] + 2 * MARGIN}  # fmt: skip
    return Image.open(io.BytesIO(page.page.screenshot(clip=clip))).convert("RGB")


def write(path: Path, pictures: list[Image.Image]) -> None:
    """Side by side, in 16 colours."""
    out = Image.new(
        "RGB", (sum(p.width for p in pictures), max(p.height for p in pictures)), pictures[0].getpixel((1, 1))
    )
    left = 0
    for each in pictures:
        out.paste(each, (left, 0))
        left += each.width
    path.parent.mkdir(parents=True, exist_ok=True)
    out.quantize(16, dither=Image.Dither.NONE).save(path, optimize=True)
    sys.stdout.write(f"{path.relative_to(REPOSITORY)}: {path.stat().st_size / 1024:.0f} KB\n")


def main(wanted: list[str]) -> None:
    with tempfile.TemporaryDirectory() as folder, sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium(), args=["--no-sandbox", "--disable-gpu"])
        tiny_models.write_models(Path(folder) / "models")
        front_end = newest_front_end()
        options = ["--front-end-root", str(front_end)] if front_end else []
        server = ComfyServer(Path(folder), comfyui_path() / "custom_nodes" / WRAPPER_NAME, options=options)
        try:
            server.start()
            kinds = wanted or node_ids(server)
            taken: dict[str, list[Image.Image]] = {}
            for vue in (False, True):
                page = GraphPage.open(browser, server, vue=vue)
                for kind in kinds:
                    if not vue or kind in IN_README:
                        taken.setdefault(kind, []).append(picture(page, kind))
                page.close()
        finally:
            server.stop()
            browser.close()
    for kind, pictures in taken.items():
        write(HELP_IMAGES / f"{kind}.png", pictures[:1])
        if kind in IN_README:
            write(IMAGES / f"{kind}.png", pictures)


if __name__ == "__main__":
    main(sys.argv[1:])
