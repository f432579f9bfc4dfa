"""Cost of the pack's nodes in the graph editor: python -m benchmarks.front_end [--rounds 9] [--against COMMIT]

Opens a workflow of 20 builder nodes and one of 20 plain nodes of the same size, in turns, and paints across a grid; in
headless Chromium, on a real ComfyUI (see tests/browser), for each front end and renderer. With --against also in a page
that has the scripts of another commit.
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from playwright.sync_api import sync_playwright

from tests.browser.conftest import FRONT_ENDS, RENDERERS, chromium, newest_front_end
from tests.browser.editor import ACTIVATIONS, STRENGTHS, GraphPage, node, workflow
from tests.comfyui.server import WRAPPER_NAME, ComfyServer, comfyui_path

NODES = 20
SIZE = [400, 210]
TWIN = "Plain"
"""Prefix of the plain node that stands for a builder: its visible inputs, and a text box in place of the picture."""

REGISTER = """async ({ name, twin, rows }) => {
    const { required, optional } = structuredClone(LiteGraph.registered_node_types[name].nodeData.input);
    const input = Object.entries({ ...required, ...optional }).filter(([key]) => !new RegExp(rows).test(key));
    const text = ["STRING", { multiline: true }];
    await app.registerNodeDef(twin, {
        name: twin, display_name: twin, category: "plain", description: "", python_module: "nodes",
        input: { required: { ...Object.fromEntries(input), text } },
        output: ["STRING"], output_name: ["text"], output_is_list: [false], output_node: false,
    });
}"""

OPEN = """async data => {
    await new Promise(requestAnimationFrame);
    const start = performance.now();
    await app.loadGraphData(data);
    await new Promise(requestAnimationFrame);
    await new Promise(done => requestAnimationFrame(() => setTimeout(done)));
    return performance.now() - start;
}"""

PAINT = """async () => {
    const cells = [...document.querySelectorAll('.wan-ae-cell')].slice(0, 40);
    const grid = cells[0].closest('.wan-ae-grid');
    const at = (kind, k) => {
        const box = cells[k].getBoundingClientRect(), x = box.x + box.width / 2, y = box.y + box.height / 2;
        grid.dispatchEvent(new PointerEvent(kind,
            { clientX: x, clientY: y, bubbles: true, button: 0, buttons: 1, pointerId: 1 }));
    };
    grid.setPointerCapture = () => {};
    const frames = [];
    let last = await new Promise(requestAnimationFrame);
    for (let stroke = 0; stroke < 5; stroke++) {
        at('pointerdown', 0);
        for (let k = 1; k < 40; k++) {
            at('pointermove', k);
            const now = await new Promise(requestAnimationFrame);
            frames.push(now - last);
            last = now;
        }
        at('pointerup', 39);
    }
    return frames;
}"""


SCRIPTS = "/extensions/activation-editor/js/"


class OlderPage(GraphPage):
    """A page with the scripts of another commit; ones that it did not have are empty."""

    commit = ""

    def visit(self) -> None:
        self.page.route(f"**{SCRIPTS}**", self._answer)
        super().visit()

    def _answer(self, route: Any) -> None:
        name = route.request.url.partition(SCRIPTS)[2].partition("?")[0]
        found = subprocess.run(
            ["git", "show", f"{self.commit}:web/js/{name}"], capture_output=True, text=True, check=False
        )
        route.fulfill(body=found.stdout, content_type="text/javascript")


def twenty(kind: str, values: list[Any]) -> dict[str, Any]:
    places = [[420 * (i % 5), 260 * (i // 5)] for i in range(NODES)]
    return workflow(*(node(kind, values, i + 1, pos=pos, size=SIZE) for i, pos in enumerate(places)))


ROWS = {ACTIVATIONS: r"^block_\d+$", STRENGTHS: r"^block_\d+_strength$"}
FILES = {
    TWIN + ACTIVATIONS: twenty(TWIN + ACTIVATIONS, ["custom", "a red fox"]),
    ACTIVATIONS: twenty(ACTIVATIONS, ["custom", *[i % 3 == 0 for i in range(40)]]),
    TWIN + STRENGTHS: twenty(TWIN + STRENGTHS, ["custom", 0.5, 20, 5.0, 5, 0, "a red fox"]),
    STRENGTHS: twenty(STRENGTHS, ["custom", 0.5, 20, 5.0, 5, *[i / 40 for i in range(40)], 0]),
}


def opening(page: GraphPage, rounds: int) -> dict[str, list[float]]:
    """Milliseconds until a workflow is on the screen; the workflows take turns, the first round does not count."""
    times: dict[str, list[float]] = {name: [] for name in FILES}
    for kind, rows in ROWS.items():
        page.js(REGISTER, {"name": kind, "twin": TWIN + kind, "rows": rows})
    for _ in range(rounds + 1):
        for name, data in FILES.items():
            page.load(workflow())
            page.js("() => { app.canvas.ds.scale = 0.5; app.canvas.ds.offset[0] = 60; app.canvas.ds.offset[1] = 60; }")
            times[name].append(page.js(OPEN, data))
    return {name: taken[1:] for name, taken in times.items()}


def painting(page: GraphPage) -> list[float]:
    """Milliseconds between frames while a stroke crosses one cell per frame, in a graph of 20 builders."""
    page.load(FILES[ACTIVATIONS])
    return page.js(PAINT)


def measure(rounds: int, against: str, report: Callable[[str], None]) -> None:
    report(
        "| front end | renderer | scripts | 20 plain nodes | 20 activation builders "
        "| 20 plain nodes | 20 strength builders | frames while painting, ms |"
    )
    report("|---|---|---|---|---|---|---|---|")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium(), args=["--no-sandbox", "--disable-gpu"])
        for front_end in FRONT_ENDS:
            options = ["--front-end-root", str(newest_front_end())] if front_end == "newest" else []
            with tempfile.TemporaryDirectory() as folder:
                server = ComfyServer(Path(folder), comfyui_path() / "custom_nodes" / WRAPPER_NAME, options=options)
                try:
                    server.start()
                    for renderer in RENDERERS:
                        for line in rows(front_end, renderer, browser, server, rounds, against):
                            report(line)
                finally:
                    server.stop()
        browser.close()


def rows(front_end: str, renderer: str, browser: Any, server: ComfyServer, rounds: int, against: str) -> list[str]:
    """A line for these scripts, for those of another commit, and for none."""
    OlderPage.commit = against
    pages = {
        "these": (GraphPage, True),
        **({against: (OlderPage, True)} if against else {}),
        "none": (GraphPage, False),
    }
    lines = []
    for name, (kind, scripts) in pages.items():
        page = kind.open(browser, server, vue=renderer == "vue", scripts=scripts)
        version = page.js("() => window.__COMFYUI_FRONTEND_VERSION__")
        frames = painting(page) if scripts else []
        times = {kind: statistics.median(taken) for kind, taken in opening(page, rounds).items()}
        page.close()
        cells = [f"{times[kind]:.0f}" for builder in ROWS for kind in (TWIN + builder, builder)]
        painted = (
            f"{statistics.median(frames):.1f} (95%: {statistics.quantiles(frames, n=20)[-1]:.1f})" if frames else ""
        )
        lines.append(f"| {version} ({front_end}) | {renderer} | {name} | {' | '.join(cells)} | {painted} |")
    return lines


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--against", default="", metavar="COMMIT")
    arguments = parser.parse_args()
    measure(arguments.rounds, arguments.against, lambda line: print(line, flush=True))
