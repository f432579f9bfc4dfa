// The schedule of an editing node as a small curve under its picture, or what is wrong with the text.

import { panelOf } from "./panel.js";
import { parseSchedule } from "./schedule.js";
import { make } from "./surface.js";
import { chain, isLinked, widgetNamed } from "./widgets.js";

const HEIGHT = 34; // px
const SVG = "http://www.w3.org/2000/svg";

/** Draw a node's schedule for as long as its text says one. */
export function addCurve(node) {
  const widget = widgetNamed(node, "schedule"), panel = panelOf(node);
  if (!widget || !panel) return;
  let shown = "";
  const draw = () => {
    const text = isLinked(node, "schedule") ? "" : String(widget.value ?? "").trim();
    if (text === shown) return;
    shown = text;
    const section = text ? sectionOf(text) : null;
    panel.show("schedule", section, HEIGHT);
  };
  chain(widget, "callback", draw);
  chain(node, "onConfigure", draw);
  chain(node, "onConnectionsChange", draw);
}

function sectionOf(text) {
  let points;
  try {
    points = parseSchedule(text);
  } catch (error) {
    const line = make("div", "wan-ae-line warning", { role: "status", title: error.message });
    line.textContent = `schedule, ${error.message}`;
    return line;
  }
  const svg = document.createElementNS(SVG, "svg"), path = document.createElementNS(SVG, "path");
  const said = points.map(([at, value]) => `${value} at ${Math.round(100 * at)}%`).join(", ");
  const attributes = { class: "wan-ae-picture", viewBox: "0 0 1 1", preserveAspectRatio: "none", role: "img", "aria-label": `Schedule: ${said}` };
  for (const [name, value] of Object.entries(attributes)) svg.setAttribute(name, value);
  const line = [[0, points[0][1]], ...points, [1, points.at(-1)[1]]];
  path.setAttribute("d", `M0 1${line.map(([at, value]) => `L${at} ${1 - value}`).join("")}L1 1Z`);
  svg.append(path);
  return make("div", "wan-ae-curve", { title: `Multiplier of the strength over sampling: ${said}` }, svg);
}
