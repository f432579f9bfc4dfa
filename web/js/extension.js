// WanVideo Activation Editor in the graph editor. Acts on this pack's nodes as they are created, and on nothing else.

import { api } from "../../../scripts/api.js";
import { app } from "../../../scripts/app.js";
import { BUILDERS } from "./builders.js";
import { refreshLists } from "./lists.js";
import { showNotice } from "./notices.js";
import { convertOldFile } from "./old_files.js";
import { builders, editors } from "./registry.js";
import { ROW_WIDGETS, defineRows, dropRowSockets } from "./rows.js";
import { EDITOR, EVENT, addStatus } from "./status.js";
import { nodeByExecutionId } from "./widgets.js";

const CATEGORY = "WanVideo/Activation Editor";
const MIN_WIDTH = 400; // px; Nodes 2.0 cuts our titles below

function refreshBuilders(editor) {
  for (const node of editor.graph?._nodes ?? []) builders.get(node)?.refresh();
}

app.registerExtension({
  name: "WanVideoActivationEditor",

  getCustomWidgets: () => ROW_WIDGETS,

  beforeRegisterNodeDef(type, data) {
    defineRows(data);
  },

  nodeCreated(node) {
    const { category, name } = node.constructor.nodeData ?? {};
    if (!category?.startsWith(CATEGORY)) return;
    BUILDERS[name]?.(app, node);
    if (name === EDITOR) addStatus(app, node, refreshBuilders);
    node.setSize([Math.max(MIN_WIDTH, node.size[0]), node.computeSize()[1]]);
  },

  beforeConfigureGraph(data) {
    convertOldFile(data, type => type in LiteGraph.registered_node_types);
    dropRowSockets(data);
  },

  loadedGraphNode(node) {
    showNotice(app, node);
  },

  setup() {
    api.addEventListener("executed", ({ detail }) => { if (detail.output?.wan_store) refreshLists(api, app); });
    api.addEventListener(EVENT, ({ detail }) => {
      const graph = app.rootGraph ?? app.graph?.rootGraph ?? app.graph;
      if (detail.workflow && graph?.id && detail.workflow !== graph.id) return; // another one is open now
      editors.get(nodeByExecutionId(graph, detail.node))?.receive(detail);
    });
  },
});
