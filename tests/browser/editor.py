"""One page of the graph editor, driven as a person would: real pointer and key events, files as the page loads them."""

from __future__ import annotations

import copy
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from ..comfyui.server import ComfyServer

ACTIVATIONS, STRENGTHS, EDITOR = (
    "WanVideoBlockActivationBuilder",
    "WanVideoBlockStrengthBuilder",
    "WanVideoActivationEditor",
)
WIDTH, HEIGHT = 1400, 900

CALM = {
    "Comfy.TutorialCompleted": True,
    "Comfy.InstalledVersion": "1.40.0",
    "Comfy.Workflow.Persist": False,
    "Comfy.Graph.CanvasMenu": False,
    "Comfy.Minimap.Visible": False,
}

# Answers of ComfyUI 0.8.0 to requests of newer front ends, files that the network is asked for, the pages' own remarks.
_NOISE = (
    "404", "Jobs API", "400 (Bad Request)", "Content Security Policy", "ERR_FAILED", "net::", "$el",
    "Error fetching file size", "Fetch API cannot load",
)  # fmt: skip


def node(kind: str, values: Sequence[Any] | None = None, node_id: int = 1, **more: Any) -> dict[str, Any]:
    """A node as a workflow file holds it; without `values` the file names none."""
    saved = {} if values is None else {"widgets_values": list(values)}
    return {
        "id": node_id, "type": kind, "pos": [300 + 480 * (node_id - 1), 180], "size": [400, 200], "flags": {},
        "order": 0, "mode": 0, "inputs": [], "outputs": [], "properties": {}, **saved, **more,
    }  # fmt: skip


def workflow(*nodes: Mapping[str, Any], links: Sequence[Any] = ()) -> dict[str, Any]:
    return {
        "last_node_id": len(nodes), "last_link_id": len(links), "nodes": [copy.deepcopy(dict(n)) for n in nodes],
        "links": list(links), "groups": [], "config": {}, "extra": {}, "version": 0.4,
    }  # fmt: skip


class GraphPage:
    """A page of a server's front end.

    Attributes:
        vue: True in Nodes 2.0, False on the classic canvas.
        console: what the page wrote, in order.
        problems: its errors and exceptions since `reset`.
    """

    def __init__(self, server: ComfyServer, context: Any, vue: bool, scripts: bool = True) -> None:
        self.server, self.vue, self.scripts = server, vue, scripts
        self.console: list[str] = []
        self.problems: list[str] = []
        self._context = context
        self.page = context.new_page()
        self.page.on("console", self._on_console)
        self.page.on("pageerror", lambda e: self._note("exception", f"{e.message} {(e.stack or '')[:800]}"))
        self.page.route("**/*", lambda r: r.continue_() if self._is_wanted(r.request.url) else r.abort())

    @classmethod
    def open(
        cls,
        browser: Any,
        server: ComfyServer,
        vue: bool,
        light: bool = False,
        scripts: bool = True,
        language: str = "en",
    ) -> GraphPage:
        """A new page; without `scripts` it is one that the pack has no script for."""
        look = {"Comfy.ColorPalette": "light" if light else "dark", "Comfy.Locale": language}
        server.call("/settings", {**CALM, "Comfy.VueNodes.Enabled": vue, **look})
        context = browser.new_context(viewport={"width": WIDTH, "height": HEIGHT}, has_touch=True)
        opened = cls(server, context, vue, scripts)
        opened.visit()
        return opened

    def visit(self) -> None:
        """Open or reload the page."""
        self.page.goto(self.server.url, wait_until="domcontentloaded")
        self.page.wait_for_function(
            f"() => window.app?.graph && window.LiteGraph?.registered_node_types?.{EDITOR} && app.extensionManager"
            + (" && app.extensions?.some?.(e => e.name === 'WanVideoActivationEditor')" if self.scripts else ""),
            timeout=60000,
        )
        self.page.wait_for_function("() => !document.querySelector('#splash-loader')")
        self.page.wait_for_timeout(500)
        self.page.keyboard.press("Escape")

    def close(self) -> None:
        self._context.close()

    def _is_wanted(self, url: str) -> bool:
        if not self.scripts and "/extensions/activation-editor/js/" in url:
            return False
        return url.startswith((self.server.url, self.server.url.replace("http", "ws", 1), "data:", "blob:"))

    def _on_console(self, message: Any) -> None:
        self._note(message.type, message.text)

    def _note(self, kind: str, text: str) -> None:
        self.console.append(f"{kind}: {text}")
        if kind in ("error", "exception") and not any(words in text for words in _NOISE):
            self.problems.append(f"{kind}: {text}")

    @property
    def draws_linked_rows(self) -> bool:
        """Newer front ends show a hidden widget in Nodes 2.0 while it is linked: 1.58 does, 1.35 and 1.49 do not."""
        return self.vue and self.is_new

    @property
    def is_new(self) -> bool:
        version = self.js("() => window.__COMFYUI_FRONTEND_VERSION__").split(".")
        return (int(version[0]), int(version[1])) >= (1, 50)

    # The graph

    def js(self, script: str, argument: Any = None) -> Any:
        return self.page.evaluate(script, argument)

    def settle(self, frames: int = 4) -> None:
        """Let the page draw and its watchers run."""
        self.js(
            "async n => { for (let i = 0; i < n; i++) await new Promise(requestAnimationFrame);"
            " await new Promise(r => setTimeout(r, 30)); }",
            frames,
        )

    def until(self, check: Callable[[], bool], seconds: float = 10.0) -> None:
        """Wait for what the page does later; the caller asserts it after, so that a failure shows the difference."""
        end = time.monotonic() + seconds
        while not check() and time.monotonic() < end:
            self.settle()

    def reset(self) -> None:
        """An empty graph."""
        self.page.mouse.up()
        self.load(workflow())
        self.problems.clear()

    def load(self, data: Mapping[str, Any], scale: float = 1.0) -> None:
        """Open a workflow file, or one in API format."""
        self.js(
            "async d => { Array.isArray(d.nodes) ? await app.loadGraphData(d) : await app.loadApiJson(d, 'test') }",
            dict(data),
        )
        self.view(scale)

    def view(self, scale: float) -> None:
        """Zoom, with node 1 in sight."""
        self.js(
            "s => { const c = app.canvas; c.min_font_size_for_lod = 0; c.low_quality_zoom_threshold = 0;"
            " c.ds.scale = s; c.ds.offset[0] = 60 / s - 200; c.ds.offset[1] = 60 / s - 60; c.setDirty(true, true) }",
            scale,
        )
        self.settle()
        self.js(
            """() => { const n = app.graph.getNodeById(1), c = app.canvas;
            const element = n?.widgets?.find(w => w.type === 'WAN_ACTIVATION_EDITOR')?.element;
            const box = element?.getBoundingClientRect();
            if (!box?.height || box.bottom < innerHeight - 40) return;
            c.ds.offset[1] -= (box.y + box.height / 2 - innerHeight / 2) / c.ds.scale; c.setDirty(true, true); }"""
        )
        self.settle()

    def saved(self) -> dict[str, Any]:
        """The file that saving would write."""
        return self.js("() => JSON.parse(JSON.stringify(app.graph.serialize()))")

    def prompt(self) -> dict[str, Any]:
        """The API workflow that queueing would send."""
        return self.js("async () => (await app.graphToPrompt()).output")

    def values(self, node_id: int = 1) -> list[Any]:
        return next(n for n in self.saved()["nodes"] if int(n["id"]) == node_id)["widgets_values"]

    def ids(self) -> list[int]:
        return self.js("() => app.graph._nodes.map(n => Number(n.id))")

    def of_node(self, expression: str, node_id: int = 1) -> Any:
        """A JavaScript expression over the node `n`."""
        return self.js(f"id => {{ const n = app.graph.getNodeById(id); return {expression}; }}", node_id)

    def choose(self, widget: str, value: Any, node_id: int = 1) -> None:
        """Set a visible widget as its control does: value, then callback."""
        self.js(
            "([id, name, v]) => { const n = app.graph.getNodeById(id), w = n.widgets.find(w => w.name === name);"
            " w.value = v; w.callback?.(v, app.canvas, n); }",
            [node_id, widget, value],
        )
        self.settle()

    # The picture

    def picture(self, node_id: int = 1) -> Any:
        """The element in the node, as a handle."""
        return self.page.evaluate_handle(
            "id => app.graph.getNodeById(id).widgets.find(w => w.type === 'WAN_ACTIVATION_EDITOR').element", node_id
        ).as_element()

    def part(self, selector: str, index: int = 0, node_id: int = 1) -> Any:
        return self.picture(node_id).query_selector_all(selector)[index]

    def centre(self, element: Any) -> tuple[float, float]:
        box = element.evaluate(
            "e => { const r = e.getBoundingClientRect(); return [r.x + r.width / 2, r.y + r.height / 2]; }"
        )
        return box[0], box[1]

    def cell(self, block: int, node_id: int = 1) -> tuple[float, float]:
        """Where a cell of the grid is on the screen."""
        return self.centre(self.part(".wan-ae-cell", block, node_id))

    def cells(self, node_id: int = 1) -> list[bool]:
        """What the grid shows."""
        return self.picture(node_id).evaluate(
            "e => [...e.querySelectorAll('.wan-ae-cell')].map(c => c.getAttribute('aria-selected') === 'true')"
        )

    def bar(self, block: int, value: float, node_id: int = 1) -> tuple[float, float]:
        """Where a bar has a value, on the screen."""
        x, low, high = self.part(".wan-ae-bar", block, node_id).evaluate(
            "e => { const r = e.getBoundingClientRect(); return [r.x + r.width / 2, r.bottom, r.height]; }"
        )
        return x, low - high * value

    def bars(self, node_id: int = 1) -> list[float]:
        return self.picture(node_id).evaluate(
            "e => [...e.querySelectorAll('.wan-ae-bar')].map(b => Number(b.getAttribute('aria-valuenow')))"
        )

    def line(self, node_id: int = 1) -> str:
        """The status of an editor."""
        return self.part(".wan-ae-line", 0, node_id).evaluate("e => e.textContent")

    def drag(self, *points: tuple[float, float], steps: int = 6, modifiers: Sequence[str] = ()) -> None:
        for key in modifiers:
            self.page.keyboard.down(key)
        self.page.mouse.move(*points[0])
        self.page.mouse.down()
        for point in points[1:]:
            self.page.mouse.move(*point, steps=steps)
        self.page.mouse.up()
        for key in modifiers:
            self.page.keyboard.up(key)
        self.settle()

    def click(self, point: tuple[float, float], modifiers: Sequence[str] = ()) -> None:
        self.drag(point, modifiers=modifiers)

    def press(self, *keys: str) -> None:
        for key in keys:
            self.page.keyboard.press(key)
        self.settle()
