"""The pack in a page that is in Chinese: names of inputs, buttons, the status line, the help page, notes."""

from __future__ import annotations

import json
from typing import Any

from ..comfyui.server import ComfyServer
from .editor import EDITOR, GraphPage, node, workflow
from .test_examples import FILES

HELP = "async id => (await fetch(`/extensions/activation-editor/docs/${id}/zh.md`)).text()"


def test_a_page_in_chinese(browser: Any, front_end: ComfyServer):
    page = GraphPage.open(browser, front_end, vue=False, language="zh")
    try:
        page.load(workflow(node(EDITOR)))
        labels = page.of_node("Object.fromEntries(n.inputs.map(i => [i.name, i.label ?? i.localized_name]))")
        assert labels["injection_embeds"] == "注入嵌入"
        assert page.of_node("n.outputs.map(o => o.localized_name)") == ["模型", "文本嵌入"]
        buttons = page.picture().query_selector_all("button")
        assert [each.inner_text() for each in buttons] == ["全选", "清空", "反选"]
        assert page.line() == "已选 40 块中的 20 块"
        assert page.values()[1] == "mid_blocks" and "injection_strength" in page.prompt()["1"]["inputs"]
        assert page.js(HELP, EDITOR).startswith("# WanVideo 激活编辑器")

        data = json.loads(FILES[1].read_text(encoding="utf-8"))
        note, own = data["nodes"][:2]
        own["widgets_values"] = ["# Models\n\nMy own list"]
        page.load(data)
        assert note["title"] == "First injection" and page.values(note["id"])[0].startswith("# 注入第二个提示词\n")
        assert page.values(own["id"]) == own["widgets_values"]
        page.page.keyboard.press("Escape")
    finally:
        page.close()
        front_end.call("/settings", {"Comfy.Locale": "en"})  # of pages that are reloaded


def test_notes_stay_english_in_a_page_in_english(page: GraphPage):
    data = json.loads(FILES[1].read_text(encoding="utf-8"))
    page.load(data)
    assert page.values(1) == data["nodes"][0]["widgets_values"]
    page.page.keyboard.press("Escape")
    page.problems.clear()
