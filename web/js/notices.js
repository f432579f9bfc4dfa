/**
 * What could not be taken over from an older workflow file, written on the node that it concerns. The text is part of
 * the node's properties, so it stays with the file until it is dismissed.
 */

import { app } from "../../../scripts/app.js";

import { NOTICE, convertOldFile } from "./old_files.js";

const WIDGET = "older_file_notice";

function removeNotice(node) {
  const index = node.widgets?.findIndex(({ name }) => name === WIDGET) ?? -1;
  if (index < 0) return;
  node.widgets[index].onRemove?.();
  node.widgets.splice(index, 1);
  node.setSize([node.size[0], node.computeSize()[1]]);
}

function noticeElement(node, text) {
  const box = document.createElement("div");
  Object.assign(box.style, {
    boxSizing: "border-box",
    minHeight: "64px",
    overflowY: "auto",
    padding: "4px 6px",
    border: "1px solid var(--border-color)",
    borderLeft: "3px solid #d97706",
    background: "var(--comfy-input-bg)",
    color: "var(--input-text)",
    font: "12px/1.35 sans-serif",
  });
  const dismiss = document.createElement("button");
  dismiss.textContent = "Dismiss";
  Object.assign(dismiss.style, { float: "right", marginLeft: "6px", font: "inherit" });
  dismiss.addEventListener("click", () => {
    delete node.properties[NOTICE];
    removeNotice(node);
    app.extensionManager?.workflow?.activeWorkflow?.changeTracker?.checkState();
  });
  box.append(dismiss, text);
  return box;
}

function showNotice(node) {
  const text = node.properties?.[NOTICE];
  if (!text || node.widgets?.some(({ name }) => name === WIDGET)) return;
  const widget = node.addDOMWidget(WIDGET, WIDGET, noticeElement(node, text), {
    serialize: false,
    hideInPanel: true,
    getMinHeight: () => 64,
    getMaxHeight: () => 120,
  });
  widget.serialize = false;
  node.setSize([Math.max(320, node.size[0]), Math.max(node.size[1], node.computeSize()[1])]);
}

app.registerExtension({
  name: "WanVideoActivationEditor.OlderFiles",
  beforeConfigureGraph(data) {
    convertOldFile(data, (type) => type in LiteGraph.registered_node_types);
  },
  loadedGraphNode(node) {
    showNotice(node);
  },
});
