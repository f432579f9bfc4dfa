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


def test_a_link_shows_the_page_where_help_cannot_be_opened(page: GraphPage):
    """In the newest front end, whose panel shows the help of the selected node alone. The address is a download."""
    if not page.is_new:
        pytest.skip("help is opened instead")
    page.load(workflow(node(EDITOR)))
    panel = f"{STORES}.get('rightSidePanel')"
    page.js(f"() => {{ app.canvas.selectNode(app.graph.getNodeById(1)); {panel}.openPanel('info'); }}")
    page.page.locator(f"a[href$='{ACTIVATIONS}.md']").first.click(timeout=15000)
    shown = page.page.get_by_text("# WanVideo Block Activation Builder")
    shown.wait_for(timeout=15000)
    page.page.get_by_role("button", name="Close", exact=True).and_(page.page.locator(":visible")).first.click()
    shown.wait_for(state="hidden")
    page.js(f"() => {panel}.closePanel()")
    page.problems.clear()


def test_a_link_to_a_guide_says_where_it_is(page: GraphPage):
    pages = len(page.page.context.pages)
    click = (
        "address => { const a = Object.assign(document.createElement('a'), { href: address });"
        " let passed = false; const see = e => { passed = true; e.preventDefault(); };"
        " window.addEventListener('click', see); document.body.append(a); a.click(); a.remove();"
        " window.removeEventListener('click', see); return passed; }"
    )
    assert not page.js(click, "../../docs/guides/block-map.md")
    page.page.get_by_text("The guide is docs/guides/block-map.md in the folder of this pack.").first.wait_for()
    for other in ("https://example.org/docs/guides/block-map.md", f"https://example.org/{EDITOR}.md"):
        assert page.js(click, other), "a link of another site"
    assert len(page.page.context.pages) == pages
    page.visit()  # without the message
