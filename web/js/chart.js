// Bars of a value per block, with an axis, block numbers, and the value under the pointer.

import { make } from "./surface.js";
import { say } from "./words.js";

const SVG = "http://www.w3.org/2000/svg";

/** A number as it is written beside a chart: three digits, also of small values. */
export function figure(value) {
  return value >= 0.01 || value === 0 ? value.toFixed(3) : value.toPrecision(2);
}

/** @returns {{ element: HTMLElement, draw: (values: number[], quantity: string, top?: number) => void }} top: else the highest value */
export function makeChart() {
  const svg = document.createElementNS(SVG, "svg"), path = document.createElementNS(SVG, "path");
  for (const [name, value] of Object.entries({ class: "wan-ae-picture", preserveAspectRatio: "none", role: "img" })) svg.setAttribute(name, value);
  svg.append(path);
  const axis = make("span", "wan-ae-axis"), numbers = make("div", "wan-ae-scale", { "aria-hidden": "true" });
  const element = make("div", "wan-ae-chart", {}, make("div", "wan-ae-plot", {}, svg, axis), numbers);
  let shown = [], what = "";
  svg.addEventListener("pointermove", e => {
    const box = svg.getBoundingClientRect(), i = Math.floor(((e.clientX - box.left) / box.width) * shown.length);
    element.title = shown[i] === undefined ? "" : say(`Block ${i}: ${what.toLowerCase()} ${figure(shown[i])}`);
  });
  return {
    element,
    draw(values, quantity, top = Math.max(...values, 0) || 1) {
      shown = values;
      what = quantity;
      svg.setAttribute("viewBox", `0 0 ${values.length} 1`);
      svg.setAttribute("aria-label", `${quantity} per block, highest ${figure(Math.max(...values, 0))}`);
      path.setAttribute("d", values.map((v, i) => (v > 0 ? `M${i + 0.08} 1V${1 - Math.max(Math.min(v / top, 1), 0.05)}H${i + 0.92}V1Z` : "")).join(""));
      const text = say(`${quantity}, top ${top === 1 ? "1" : figure(top)}`);
      if (axis.textContent !== text) axis.textContent = text;
      if (numbers.dataset.count === String(values.length)) return;
      numbers.dataset.count = String(values.length);
      const marks = Array.from({ length: Math.ceil(values.length / 10) }, (_, k) => k * 10);
      numbers.replaceChildren(...marks.map(i => make("span", "", { style: `left: ${(100 * i) / values.length}%` }, String(i))));
    },
  };
}
