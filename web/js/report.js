// What an executed node reports, on the node itself: tables where the node sends figures, bars of a value per block, else
// its text, with the tables in it. The text output stays as it is.

import { makeChart } from "./chart.js";
import { panelOf } from "./panel.js";
import { make } from "./surface.js";
import { partsOf } from "./tables.js";
import { say } from "./words.js";

const SECTION = "report";
const LINE = 14, ROW = 17, MOST = 200; // px
const FIGURES = 3; // significant digits

const written = cell => (typeof cell !== "number" ? String(cell) : cell === 0 ? "0" : Math.abs(cell) >= 100 ? cell.toFixed(0) : cell.toPrecision(FIGURES));

/** @param table { caption, columns: string[], rows: (string | number)[][], note? }: the first cell of a row names it */
function makeTable({ caption, columns, rows }) {
  const head = make("tr", "", {}, ...columns.map(name => make("th", "", { scope: "col" }, name)));
  const body = rows.map(([name, ...cells]) =>
    make("tr", "", {}, make("th", "", { scope: "row", title: name }, name), ...cells.map(cell => make("td", "", {}, written(cell)))));
  const title = caption ? [make("caption", "", { title: caption }, make("div", "", {}, caption))] : [];
  return make("table", "wan-ae-table", {}, ...title, make("thead", "", {}, head), make("tbody", "", {}, ...body));
}

const tableHeight = ({ caption, rows }) => ROW * (rows.length + (caption ? 2 : 1)) + 4;

/**
 * Show what a run of the node told: `tables` and `shown` of ours, or the node's text.
 * `shown`: bars per block, { label, strengths, quantity? }; a quantity other than strength has its highest value on top.
 */
export function showReport(node, output, told) {
  const text = output?.text?.[0];
  const parts = [];
  let height = 0;
  const width = Math.max((node.size[0] - 40) / 6.7, 20); // in characters
  for (const table of told?.tables ?? []) {
    parts.push(makeTable(table));
    height += tableHeight(table);
    if (!table.note) continue;
    parts.push(make("div", "wan-ae-text", {}, table.note));
    height += LINE * Math.ceil(table.note.length / width) + 6;
  }
  for (const { label, strengths, quantity } of told?.shown ?? []) {
    const chart = makeChart();
    chart.draw(strengths, quantity ?? "Strength", quantity ? undefined : 1);
    parts.push(make("div", "wan-ae-line", { title: label }, label), chart.element);
    height += 70;
  }
  if (!parts.length && typeof text === "string" && text) {
    for (const part of partsOf(text)) {
      parts.push(part.table ? makeTable(part.table) : make("pre", "wan-ae-text", {}, part.text));
      height += part.table ? tableHeight(part.table)
        : LINE * part.text.split("\n").reduce((lines, line) => lines + Math.max(Math.ceil(line.length / width), 1), 0) + 14;
    }
  }
  if (!parts.length) return panelOf(node)?.show(SECTION, null);
  const box = make("div", "wan-ae-report", { tabindex: "0", role: "region", "aria-label": say("Report"), "data-capture-wheel": "true" }, ...parts);
  box.addEventListener("wheel", e => { if (box.scrollHeight > box.clientHeight && !e.ctrlKey) e.stopPropagation(); });
  panelOf(node)?.show(SECTION, box, Math.min(height, MOST));
}
