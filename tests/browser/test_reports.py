"""Reports on the nodes that make them: tables, bars, text; the text outputs are as before."""

from __future__ import annotations

from typing import Any

from .editor import GraphPage
from .test_editor_status import Host, build, host, queue  # noqa: F401  (a fixture)

TABLE = """e => [...e.querySelectorAll('.wan-ae-table tr')].map(r => [...r.children].map(c => c.innerText))"""


def reporting(host: Host) -> tuple[Any, dict[str, int]]:  # noqa: F811
    """A workflow with the nodes that report; their ids."""
    flow, _, editor, _ = build(host)
    given = flow[editor]["inputs"]
    model, embeds = [editor, 0], [editor, 1]
    tester = flow.add("WanVideoInjectionTester", model=model, text_embeds=embeds, show_details=True)
    viewer = flow.add("WanVideoBlockActivationViewer", model=model, show_visual=True)
    analyzer = flow.add("WanVideoEmbeddingAnalyzer", text_embeds=embeds, analysis_type="statistics", store_in_db=False)
    stored = flow.add("WanVideoStoreEmbedding", text_embeds=given["text_embeds"], name="browser", tags="seen", note="")
    amplifier = flow.add(
        "WanVideoEmbeddingAmplifier", main_embeds=stored, injection_embeds=given["injection_embeds"],
        target_difference=90, amplification_mode="push_apart",
    )  # fmt: skip
    flow.add("PreviewAny", source=[amplifier[0], 1])
    database = flow.add(
        "WanVideoEmbeddingDatabase", action="list_recent", cleanup_days=30, cleanup_min_access=5, after=stored
    )
    search = flow.add("WanVideoSearchEmbeddings", text_embeds=amplifier, count=3, text="", tag="seen")
    reports = {"tester": tester, "database": database, "viewer": viewer, "analyzer": analyzer, "amplifier": amplifier}
    return flow, {name: int(link[0]) for name, link in {**reports, "search": search}.items()}


def test_reports_are_on_the_nodes(page: GraphPage, host: Host):  # noqa: F811
    flow, ids = reporting(host)
    page.load(flow)
    sizes = {name: page.of_node("[...n.size]", node_id) for name, node_id in ids.items()}
    before = page.saved()
    text = queue(page).output(str(ids["tester"]), "text")[0]
    head, *rows = page.picture(ids["tester"]).evaluate(TABLE)
    assert head == ["", "relative L2", "cosine", "norm ratio", "changed"]
    assert [row[0] for row in rows][::2] == ["before projection", "after projection"]
    for row in rows:
        (line,) = [each for each in text.splitlines() if each.strip().lower().startswith(LINES[row[0].split(",")[0]])
                   and ("all" in each) == ("all" in row[0])]  # fmt: skip
        assert abs(float(line.split("relative L2 ")[1].split(",")[0]) - float(row[1])) < 0.006, (
            "the figures of the text"
        )
    note = page.part(".wan-ae-report .wan-ae-text", 0, ids["tester"]).inner_text()
    (verdict,) = [line.split("Verdict: ")[1] for line in text.splitlines() if "Verdict: " in line]
    assert note.startswith(verdict) and len(verdict) > 20
    cut = "e => { const r = e.querySelector('.wan-ae-report'); return r.scrollWidth - r.clientWidth; }"
    assert page.picture(ids["tester"]).evaluate(cut) <= 0, "no column is cut"
    bars = page.part(".wan-ae-report .wan-ae-picture path", 0, ids["viewer"]).get_attribute("d")
    assert bars.count("M") == 10, "a bar for every edited block"
    assert [row[0] for row in page.picture(ids["amplifier"]).evaluate(TABLE)] == ["", "before", "after"]
    head, *rows = page.picture(ids["analyzer"]).evaluate(TABLE)
    assert head == ["", "mean", "std", "min", "max"] and [row[0] for row in rows] == ["values", "token norms"]
    head, *rows = page.picture(ids["database"]).evaluate(TABLE)
    assert head[:3] == ["embedding", "size", "dtype"], "the text's own table"
    assert "browser" in [row[0] for row in rows]
    head, *rows = page.picture(ids["search"]).evaluate(TABLE)
    assert head == ["embedding", "cosine", "tokens", "tags"]
    assert "browser" in [row[0] for row in rows] and {row[3] for row in rows} == {"seen"}
    assert all(-1 <= float(row[1]) <= 1 for row in rows)
    for name, node_id in ids.items():
        assert page.of_node("n.size[1]", node_id) > sizes[name][1], name
    after = page.saved()
    for saved, again in zip(before["nodes"], after["nodes"], strict=True):
        if saved["id"] not in ids.values():
            continue
        assert saved.get("widgets_values") == again.get("widgets_values")
        if not page.vue:
            assert list(saved["size"]) == list(again["size"]), "a report is no part of the file"


LINES = {"before projection": "before projection", "before": "before projection",
         "after projection": "after projection", "after": "after projection"}  # fmt: skip
