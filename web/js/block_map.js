// The Block Map Viewer's heat map: blocks x noise levels, with values under the pointer. A click on a column chooses the
// block, in a Block Activation Builder that is connected to the same editor, or as text on the clipboard.

import { columnTitle, heat, selectionText } from "./heat.js";
import { make, makeSurface } from "./surface.js";
import { addElement, chain, markChanged, originOf, setValue, widgetNamed } from "./widgets.js";
import { say } from "./words.js";

export const VIEWER = "WanVideoBlockMapViewer";
const BUILDER = "WanVideoBlockActivationBuilder";
const STRENGTHS = 2; // output

/** Give a viewer node its map, which stays empty until the node has run. */
export function addBlockMap(app, node) {
  const root = makeSurface(app);
  const table = make("div", "", { role: "grid", "aria-label": say("Block map") });
  Object.assign(table.style, { flex: "1", minHeight: "0", display: "grid", gap: "1px" });
  const line = make("div", "wan-ae-line", { role: "status" });
  line.textContent = say("Run the node to see the map");
  root.append(table, line);
  const chosen = new Set();
  let top = null; // blocks that the viewer gives a strength

  function choose(block) {
    if (!chosen.delete(block)) chosen.add(block);
    const count = table.querySelectorAll("[data-first]").length;
    for (const cell of table.children) cell.style.outline = chosen.has(Number(cell.dataset.block)) ? "1px solid var(--input-text, #fff)" : "";
    const text = selectionText(chosen);
    const builder = connectedBuilder(node);
    if (builder && write(app, builder, chosen)) {
      const silent = selectionText([...chosen].filter(b => top && !top.includes(b))); // strengths and choice are multiplied
      line.textContent = silent
        ? say(`No strength for blocks ${silent}: raise top, or unlink block_strengths`)
        : say(`${chosen.size} of ${count} blocks in ${builder.title ?? "the builder"}: ${text || "none"}`);
      markChanged(app);
      return;
    }
    navigator.clipboard?.writeText(text).then(
      () => { line.textContent = say(`Copied: ${text}`); },
      () => { line.textContent = `block_activations: ${text}`; },
    );
    if (!navigator.clipboard) line.textContent = `block_activations: ${text}`;
  }

  function show(map) {
    chosen.clear();
    top = map.top;
    const blocks = map.values[0]?.length ?? 0;
    table.style.gridTemplateColumns = `repeat(${blocks}, minmax(0, 1fr))`;
    table.replaceChildren(...map.values.flatMap((row, level) => row.map((value, block) => {
      const title = say(columnTitle(map, level, block));
      const cell = make("div", "", { role: "gridcell", tabindex: level ? "-1" : "0", title, "aria-label": title, "data-block": block, ...(level ? {} : { "data-first": "" }) });
      Object.assign(cell.style, { background: heat(value, map), cursor: value == null ? "default" : "pointer", minWidth: "1px" });
      if (value != null) {
        cell.addEventListener("click", () => choose(block));
        cell.addEventListener("keydown", e => { if (e.key === " " || e.key === "Enter") { e.preventDefault(); e.stopPropagation(); choose(block); } });
        cell.addEventListener("pointerenter", () => { line.textContent = title; });
      }
      return cell;
    })));
    line.textContent = say(`${map.quantity}, ${blocks} blocks x ${map.values.length} noise levels`);
  }

  addElement(node, "block_map_view", root, 70, 160);
  chain(node, "onExecuted", output => {
    const text = output?.block_map?.[0];
    if (text) show(JSON.parse(text));
  });
}

/** The builder whose blocks the editor behind this viewer reads; null when there is none. */
function connectedBuilder(node) {
  for (const target of (node.graph && node.getOutputNodes(STRENGTHS)) ?? []) {
    const origin = originOf(target, "block_activations");
    if (origin?.constructor?.nodeData?.name === BUILDER) return origin;
  }
  return null;
}

/** Put a choice of blocks into a builder; false when its widgets are not those that are known here. */
function write(app, builder, chosen) {
  const preset = widgetNamed(builder, "preset"), first = widgetNamed(builder, "block_0");
  if (!preset || !first) return false;
  setValue(app, builder, preset, "custom"); // before the rows: custom starts from the preset's blocks
  for (let block = 0, row; (row = widgetNamed(builder, `block_${block}`)); block++) row.value = chosen.has(block);
  first.callback?.(first.value); // has the builder and its editors draw
  return true;
}
