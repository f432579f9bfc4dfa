// What could not be taken over from an older workflow file, written on the node that it concerns. The text is part of the
// node's properties, so it stays with the file until it is dismissed.

import { NOTICE } from "./old_files.js";
import { make } from "./surface.js";
import { addElement, markChanged, widgetNamed } from "./widgets.js";
import { say } from "./words.js";

const WIDGET = "older_file_notice";
const HEIGHT = [64, 120]; // px, least and most
const STYLE = "box-sizing: border-box; overflow-y: auto; padding: 4px 6px; border: 1px solid var(--border-color);"
  + " border-left: 3px solid #d97706; background: var(--comfy-input-bg); color: var(--input-text); font: 12px/1.35 sans-serif";

/** Show the notice that a loaded node has, if any. */
export function showNotice(app, node) {
  const text = node.properties?.[NOTICE];
  if (!text || widgetNamed(node, WIDGET)) return;
  const dismiss = make("button", "", { type: "button", style: "float: right; margin-left: 6px; font: inherit" }, say("Dismiss"));
  const widget = addElement(node, WIDGET, make("div", "", { style: STYLE }, dismiss, text), ...HEIGHT);
  dismiss.addEventListener("click", () => {
    delete node.properties[NOTICE];
    widget.onRemove?.();
    node.widgets.splice(node.widgets.indexOf(widget), 1);
    node.setSize([node.size[0], node.computeSize()[1]]);
    markChanged(app);
  });
  node.setSize([node.size[0], Math.max(node.size[1], node.computeSize()[1])]);
}
