// The editor node's line and picture: what is planned, what happens while sampling, and what happened.

import { BLOCK_COUNT } from "./patterns.js";
import { builders, editors } from "./registry.js";
import { SelectionError, isBlank, parseSelection, resolveSelection } from "./selection.js";
import { make, makeSurface } from "./surface.js";
import { addElement, chain, coalesced, isLinked, originOf, widgetNamed } from "./widgets.js";

export const EVENT = "wan_activation_editor.status";
export const EDITOR = "WanVideoActivationEditor";
const OFF = [2, 4]; // modes of muted and bypassed nodes
const SVG = "http://www.w3.org/2000/svg";

/** Give an editor node its status. `onBlocks` is called when the model's block count became known or unknown. */
export function addStatus(app, node, onBlocks) {
  const root = makeSurface(app);
  const line = make("div", "wan-ae-line", { role: "status", "aria-live": "off" }); // a step is no news to interrupt for
  const picture = document.createElementNS(SVG, "svg");
  const path = document.createElementNS(SVG, "path");
  picture.setAttribute("class", "wan-ae-picture");
  picture.setAttribute("preserveAspectRatio", "none");
  picture.setAttribute("role", "img");
  picture.append(path);
  root.append(line, picture);

  function say(text, isWarning = false, title = text) {
    if (line.textContent !== text) line.textContent = text;
    line.title = title;
    line.classList.toggle("warning", isWarning);
  }

  function draw(values, what) {
    picture.setAttribute("viewBox", `0 0 ${values.length} 1`);
    picture.setAttribute("aria-label", what);
    path.setAttribute("d", values.map((v, i) => (v > 0 ? `M${i + 0.08} 1V${1 - Math.max(v, 0.05)}H${i + 0.92}V1Z` : "")).join(""));
  }

  const showPlan = coalesced(() => {
    const count = state.blocks ?? BLOCK_COUNT;
    const { text, strengths, isWarning } = plan(node, count, state.blocks !== null);
    say(text, isWarning);
    draw(strengths ?? new Array(count).fill(0), "Planned strength per block");
  });

  function setBlocks(blocks) {
    if (state.blocks === blocks) return;
    state.blocks = blocks;
    onBlocks(node);
  }

  function receiveMessage({ phase, step, active, blocks, change, changes }) {
    setBlocks(blocks);
    if (step === 0) {
      showPlan();
      const text = phase === "end" ? "The edit did not act in this run: see its window and branch" : "Stopped before the edit acted";
      queueMicrotask(() => say(text, true));
      return;
    }
    const figures = [`${active} of ${blocks} blocks`, ...(change == null ? [] : [`output change ${change.toFixed(3)}`])];
    if (phase === "step") {
      say([`Step ${step}`, ...figures].join(", "));
      return;
    }
    const steps = `${step} ${step === 1 ? "step" : "steps"}`;
    const text = [phase === "end" ? steps : `Stopped after ${steps}`, ...figures].join(", ");
    say(text, false, change == null ? text : `${text}. Relative L2 change of the model's output by all edits.`);
    if (change == null) return; // nothing was measured: the plan stays
    const top = Math.max(1, ...changes.map(c => c ?? 0));
    draw(changes.map(c => (c ?? 0) / top), "Mean change per block");
  }

  const state = { blocks: null, receive: receiveMessage, refresh: showPlan };
  editors.set(node, state);
  addElement(node, "status", root, 44, 44);
  for (const widget of node.widgets) chain(widget, "callback", showPlan);
  chain(node, "onConfigure", showPlan);
  chain(node, "onConnectionsChange", (side, slot) => {
    if (node.inputs?.[slot]?.name === "model" && side === 1) setBlocks(null);
    showPlan();
  });
  showPlan();
}

/** What an editor's widgets and the builders linked to it say, over `count` blocks; no strengths where it is not known. */
function plan(node, count, isKnown) {
  const value = name => widgetNamed(node, name)?.value;
  if (value("enable_patching") === false) return { text: "Patching is off" };
  const comesFromLink = name => isLinked(node, name) && !OFF.includes(originOf(node, name)?.mode);
  const text = comesFromLink("block_activations")
    ? builders.get(originOf(node, "block_activations"))?.selection?.() : String(value("block_activations") ?? "");
  const perBlock = comesFromLink("block_strengths")
    ? builders.get(originOf(node, "block_strengths"))?.strengths?.(count) : new Array(count).fill(1);
  if (text === undefined || perBlock === undefined) return { text: "Blocks come from a link" };
  let terms, chosen;
  try {
    terms = parseSelection(text);
    chosen = resolveSelection(terms, count);
  } catch (error) {
    if (!(error instanceof SelectionError)) throw error;
    // The model may have more blocks than are drawn before its first run.
    return terms && !isKnown ? { text: `Selects blocks after ${count - 1}` } : { text: `block_activations: ${error.message}`, isWarning: true };
  }
  const beyond = isKnown ? perBlock.findIndex((v, i) => i >= count && v > 0) : -1;
  if (beyond >= 0) return { text: `Block ${beyond} is selected, but the model has ${count} blocks`, isWarning: true };
  if (comesFromLink("block_strengths") && isBlank(terms)) chosen.fill(1);
  const factor = isLinked(node, "injection_strength") ? 1 : Number(value("injection_strength") ?? 1);
  const strengths = chosen.map((v, i) => v * (perBlock[i] ?? 0) * factor), active = strengths.filter(v => v > 0).length;
  if (!active) return { text: "No block selected: the model passes unchanged", strengths, isWarning: true };
  return { text: `${active} of ${count} blocks selected`, strengths };
}
