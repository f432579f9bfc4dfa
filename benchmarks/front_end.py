"""Cost of the pack's nodes in the graph editor: python -m benchmarks.front_end [--rounds 9]

Opens a workflow of 20 builder nodes and one of 20 plain nodes of the same size, in turns, and paints across a grid; in
headless Chromium, on a real ComfyUI (see tests/browser), for each front end and renderer.
"""

from __future__ import annotations

import argparse
import statistics
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


def measure(rounds: int, report: Callable[[str], None]) -> None:
    report(
        "| front end | renderer | 20 plain nodes | 20 activation builders | the same without script "
        "| 20 plain nodes | 20 strength builders | the same without script | frames while painting, ms |"
    )
    report("|---|---|---|---|---|---|---|---|---|")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium(), args=["--no-sandbox", "--disable-gpu"])
        for front_end in FRONT_ENDS:
            options = ["--front-end-root", str(newest_front_end())] if front_end == "newest" else []
            with tempfile.TemporaryDirectory() as folder:
                server = ComfyServer(Path(folder), comfyui_path() / "custom_nodes" / WRAPPER_NAME, options=options)
                try:
                    server.start()
                    for renderer in RENDERERS:
                        report(row(front_end, renderer, browser, server, rounds))
                finally:
                    server.stop()
        browser.close()


def row(front_end: str, renderer: str, browser: Any, server: ComfyServer, rounds: int) -> str:
    page = GraphPage.open(browser, server, vue=renderer == "vue")
    version = page.js("() => window.__COMFYUI_FRONTEND_VERSION__")
    frames = painting(page)
    with_script = {name: statistics.median(t) for name, t in opening(page, rounds).items()}
    page.close()
    page = GraphPage.open(browser, server, vue=renderer == "vue", scripts=False)
    without = {name: statistics.median(t) for name, t in opening(page, rounds).items()}
    page.close()
    cells = []
    for kind in ROWS:
        cells += [f"{with_script[TWIN + kind]:.0f}", f"{with_script[kind]:.0f}", f"{without[kind]:.0f}"]
    low, high = statistics.median(frames), statistics.quantiles(frames, n=20)[-1]
    return f"| {version} ({front_end}) | {renderer} | {' | '.join(cells)} | {low:.1f} (95%: {high:.1f}) |"


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=9)
    measure(parser.parse_args().rounds, lambda line: print(line, flush=True))
