"""App mode of newer front ends: a picture is chosen for an app, works there, and is back in its node afterwards."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from .editor import EDITOR, GraphPage, node, workflow

STORE = "document.querySelector('#vue-app').__vue_app__.config.globalProperties.$pinia._s.get('{}')"
TOGGLE = "() => app.extensionManager.command.execute('Comfy.ToggleLinear')"
CHOSEN = f"() => {STORE.format('appMode')}?.selectedInputs.map(([id, name]) => name)"


@pytest.fixture
def app_page(page: GraphPage) -> Iterator[GraphPage]:
    if page.js(CHOSEN) is None:
        pytest.skip("this front end has no app builder")
    page.load(workflow(node(EDITOR), node("PreviewAny", node_id=2)))
    yield page
    page.js("() => { app.extensionManager.workflow.activeWorkflow.activeMode = 'graph' }")
    page.settle()


def test_the_picture_can_be_chosen_for_an_app(app_page: GraphPage):
    if not app_page.vue:
        pytest.skip("the builder of apps turns Nodes 2.0 on")
    app_page.js("() => { app.extensionManager.workflow.activeWorkflow.activeMode = 'builder:inputs' }")
    row = app_page.page.wait_for_selector("[data-widget-name=blocks]")
    app_page.settle()
    app_page.click(app_page.centre(row))
    assert app_page.js(CHOSEN) == ["blocks"]
    assert app_page.values()[1] == "mid_blocks"  # choosing it edits nothing


def test_an_app_shows_the_picture_and_a_click_edits_the_node(app_page: GraphPage):
    picture = app_page.of_node("n.widgets.find(w => w.name === 'blocks').widgetId")
    file = app_page.saved()
    file["extra"]["linearData"] = {"inputs": [[picture, "blocks"]], "outputs": ["2"]}
    app_page.load(file)
    app_page.js(TOGGLE)
    try:
        app_page.page.wait_for_selector(".wan-ae-cell", state="visible")
        for skip in app_page.page.query_selector_all("text=Skip"):  # the tour of the first visit
            skip.click()
        app_page.settle()
        assert [i for i, on in enumerate(app_page.cells()) if on] == list(range(10, 30))
        app_page.click(app_page.cell(3))
        assert app_page.values()[1] == "3, 10-29"
        assert (next(iter(app_page.prompt().values())))["inputs"]["block_activations"] == "3, 10-29"
    finally:
        app_page.js(TOGGLE)
    app_page.until(lambda: app_page.picture().bounding_box() is not None)
    app_page.view(1.0)
    app_page.click(app_page.cell(3))
    assert app_page.values()[1] == "mid_blocks"
