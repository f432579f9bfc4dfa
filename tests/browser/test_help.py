"""Help pages in the front end."""

from __future__ import annotations

import pytest

from .editor import ACTIVATIONS, EDITOR, GraphPage, node, workflow

STORES = "document.querySelector('#vue-app').__vue_app__.config.globalProperties.$pinia._s"
OPEN = f"id => {STORES}.get('nodeHelp').openHelp({STORES}.get('nodeDef').nodeDefsByName[id])"


def test_a_link_to_another_node_opens_its_help(page: GraphPage):
    page.load(workflow(node(EDITOR)))
    pages = len(page.page.context.pages)
    page.js("() => { app.extensionManager.sidebarTab.activeSidebarTabId = 'node-library'; }")
    page.settle(20)
    if not page.js(f"() => Boolean({STORES}.get('nodeHelp'))"):
        pytest.skip("1.58.1 has no store of help pages in its new node library")
    page.js(OPEN, EDITOR)
    link = page.page.locator(f"a[href$='{ACTIVATIONS}.md']").first
    link.wait_for(timeout=15000)
    link.click()
    page.until(lambda: page.js(f"() => {STORES}.get('nodeHelp').currentHelpNode?.name") == ACTIVATIONS)
    page.page.get_by_role("heading", name="WanVideo Block Activation Builder").first.wait_for(timeout=15000)
    assert len(page.page.context.pages) == pages, "no page of its own"
    page.js(
        f"() => {{ {STORES}.get('nodeHelp').closeHelp(); app.extensionManager.sidebarTab.activeSidebarTabId = null; }}"
    )
    page.problems.clear()
