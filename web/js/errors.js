// The text of an error, on the node that it concerns, until the next run: newer front ends put it in a report.

import { panelOf } from "./panel.js";
import { make } from "./surface.js";
import { nodeByExecutionId } from "./widgets.js";

const SECTION = "error";
const LABELLED = /\(node ([\d:]+)\)/g; // how an edit names its node, in an error that the sampler raises
const STYLE = "box-sizing: border-box; overflow-y: auto; padding: 4px 6px; border: 1px solid #dc2626; border-left-width: 3px;"
  + " border-radius: 3px; background: color-mix(in srgb, #dc2626 14%, var(--comfy-input-bg, #222));"
  + " color: color-mix(in srgb, #ef4444 30%, var(--input-text, #ddd)); font: 12px/1.35 sans-serif; overflow-wrap: anywhere; white-space: pre-line; user-select: text";

const shown = new Set(); // nodes

export function clearErrors() {
  for (const node of shown) panelOf(node)?.show(SECTION, null);
  shown.clear();
}

function show(node, text) {
  if (shown.has(node)) return;
  const element = make("div", "wan-ae-error", { style: STYLE, role: "alert", tabindex: "0", title: text }, text);
  element.addEventListener("pointerdown", e => e.stopPropagation()); // so that the text can be selected
  const lines = Math.ceil(text.length / Math.max((node.size[0] - 40) / 6.5, 20));
  panelOf(node)?.show(SECTION, element, Math.min(12 + 17 * lines, 140));
  shown.add(node);
}

/** What the server says of a refused prompt's node, in one text. */
function refusal({ errors }) {
  const lines = errors.map(({ type, message, details }) => {
    if (type !== "custom_validation_failed") return { line: details ? `${message}: ${details}` : message };
    const [input, ...rest] = details.split(" - "), text = rest.join(" - ");
    return { line: text.startsWith(input) ? text : `${input}: ${text}`, text };
  });
  // A check of several inputs is reported for each of them: once is enough, where the text names its own input.
  const own = new Set(lines.filter(({ line, text }) => line === text).map(each => each.text));
  return [...new Set(lines.filter(({ line, text }) => line === text || !own.has(text)).map(each => each.line))].join("\n");
}

/**
 * Show the errors of this pack's nodes from now on.
 * @param graphOf () => the root graph
 * @param isOurs node => boolean
 * @param onError called with a node and the text of its error
 */
export function watchErrors(api, graphOf, isOurs, onError) {
  const tell = (id, text, type) => {
    const node = nodeByExecutionId(graphOf(), id);
    if (!node || !isOurs(node) || (type && node.constructor.nodeData.name !== type)) return;
    show(node, text);
    onError(node, text);
  };
  const tellRefusals = nodes => {
    for (const [id, node] of Object.entries(nodes ?? {})) if (node?.errors?.length) tell(id, refusal(node), node.class_type);
  };
  const refusals = new Map(); // prompt id -> errors of nodes, of prompts that wait to run without these
  api.addEventListener("execution_start", ({ detail }) => {
    clearErrors();
    tellRefusals(refusals.get(detail?.prompt_id));
    refusals.delete(detail?.prompt_id);
  });
  api.addEventListener("execution_error", ({ detail }) => {
    const text = String(detail.exception_message ?? "").trim() || String(detail.exception_type ?? "unknown error");
    tell(detail.node_id, text, detail.node_type);
    for (const [, id] of text.matchAll(LABELLED)) tell(id, text);
  });
  const queuePrompt = api.queuePrompt;
  api.queuePrompt = async function (...args) {
    clearErrors(); // before the server answers: a run may fail before its answer is here
    try {
      const response = await queuePrompt.apply(this, args);
      const { prompt_id: id, node_errors: nodes } = response ?? {};
      if (id && Object.keys(nodes ?? {}).length) refusals.set(id, nodes);
      tellRefusals(nodes);
      return response;
    } catch (error) {
      tellRefusals(error?.response?.node_errors);
      throw error;
    }
  };
}
