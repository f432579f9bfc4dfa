// What an executed node reports, on the node itself: tables where the node sends figures, bars of strengths where it shows
// a model's blocks, else its text. The text output stays as it is.

import { makeChart } from "./chart.js";
import { panelOf } from "./panel.js";
import { make } from "./surface.js";

const SECTION = "report";
const LINE = 14, ROW = 17, MOST = 200; // px
const FIGURES = 3; // significant digits

const written = cell => (typeof cell !== "number" ? String(cell) : cell === 0 ? "0" : Math.abs(cell) >= 100 ? cell.toFixed(0) : cell.toPrecision(FIGURES));

/** @param table { caption, columns: string[], rows: (string | number)[][] }: the first cell of a row names it */
function makeTable({ caption, columns, rows }) {
  const head = make("tr", "", {}, ...columns.map(name => make("th", "", { scope: "col" }, name)));
  const body = rows.map(([name, ...cells]) =>
    make("tr", "", {}, make("th", "", { scope: "row" }, name), ...cells.map(cell => make("td", "", {}, written(cell)))));
  return make("table", "wan-ae-table", {}, make("caption", "", { title: caption }, caption), make("thead", "", {}, head), make("tbody", "", {}, ...body));
}

/** Show what a run of the node told: `tables` and `shown` (a strength per block) of ours, or the node's text. */
export function showReport(node, output, told) {
  const text = output?.text?.[0];
  const parts = [];
  let height = 0;
  for (const table of told?.tables ?? []) {
    parts.push(makeTable(table));
    height += ROW * (table.rows.length + 2) + 4;
  }
  for (const { label, strengths } of told?.shown ?? []) {
    const chart = makeChart();
    chart.draw(strengths, "Strength", 1);
    parts.push(make("div", "wan-ae-line", { title: label }, label), chart.element);
    height += 70;
  }
  if (!parts.length && typeof text === "string" && text) {
    parts.push(make("pre", "wan-ae-text", {}, text));
    const width = Math.max((node.size[0] - 40) / 6.7, 20); // in characters
    height = LINE * text.split("\n").reduce((lines, line) => lines + Math.max(Math.ceil(line.length / width), 1), 0) + 14;
  }
  if (!parts.length) return panelOf(node)?.show(SECTION, null);
  const box = make("div", "wan-ae-report", { tabindex: "0", role: "region", "aria-label": "Report", "data-capture-wheel": "true" }, ...parts);
  box.addEventListener("wheel", e => { if (box.scrollHeight > box.clientHeight && !e.ctrlKey) e.stopPropagation(); });
  panelOf(node)?.show(SECTION, box, Math.min(height, MOST));
}
