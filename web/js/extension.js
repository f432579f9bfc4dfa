// WanVideo Activation Editor in the graph editor. Acts on this pack's nodes as they are created, and on nothing else.

import { api } from "../../../scripts/api.js";
import { app } from "../../../scripts/app.js";
import { EVENT, addBlocks, editsBlocks } from "./blocks.js";
import { VIEWER, addBlockMap } from "./block_map.js";
import { BUILDERS } from "./builders.js";
import { correctBypass } from "./bypass.js";
import { addCurve } from "./curve.js";
import { watchErrors } from "./errors.js";
import { followHelpLinks } from "./help.js";
import { countIn, learn } from "./knowledge.js";
import { refreshLists } from "./lists.js";
import { showNotice } from "./notices.js";
import { translateNotes } from "./notes.js";
import { convertOldFile } from "./old_files.js";
import { addPanel, panelOf } from "./panel.js";
import { builders, editors } from "./registry.js";
import { showReport } from "./report.js";
import { ROW_WIDGETS, defineRows, dropRowSockets } from "./rows.js";
import { addAliases, extendOlderSearch } from "./search.js";
import { chain, nodeByExecutionId, originOf } from "./widgets.js";
import { speak } from "./words.js";

const CATEGORY = "WanVideo/Activation Editor";
const MIN_WIDTH = 400; // px; Nodes 2.0 cuts our titles below

const TOLD = "wan_activation_editor"; // what our nodes send when they have executed

/** Tell a node what a run resolved; its block count also to the nodes of this pack that its model comes through. */
function teach(node, { blocks, strengths }) {
  for (let at = node, own = true; at; at = originOf(at, "model"), own = false) {
    if (!isOurs(at)) return;
    learn(app, at, own ? { blocks, strengths } : { blocks });
    editors.get(at)?.learned();
  }
}

const definitions = new Map(); // of this pack's nodes, as the server sent them

const isOurs = node => Boolean(node.constructor.nodeData?.category?.startsWith(CATEGORY));
const locale = () => app.extensionManager?.setting?.get("Comfy.Locale");
const rootGraph = () => app.rootGraph ?? app.graph?.rootGraph ?? app.graph;

function refreshBuilders(editor) {
  for (const node of editor.graph?._nodes ?? []) builders.get(node)?.refresh();
}

app.registerExtension({
  name: "WanVideoActivationEditor",

  getCustomWidgets: () => ROW_WIDGETS,

  beforeRegisterNodeDef(type, data) {
    defineRows(data);
    addAliases(data);
    if (data.category?.startsWith(CATEGORY)) definitions.set(data.name, data);
  },

  nodeCreated(node) {
    if (!isOurs(node)) return;
    speak(locale());
    BUILDERS[node.constructor.nodeData.name]?.(app, node);
    if (editsBlocks(node)) addBlocks(app, node, refreshBuilders);
    if (node.constructor.nodeData.name === VIEWER) addBlockMap(app, node);
    if (!panelOf(node)) addPanel(app, node);
    addCurve(node);
    correctBypass(node);
    chain(node, "onExecuted", output => {
      const told = output?.[TOLD]?.[0];
      if (told?.blocks) teach(node, told);
      showReport(node, output, told);
    });
    node.setSize([Math.max(MIN_WIDTH, node.size[0]), node.computeSize()[1]]);
  },

  async beforeConfigureGraph(data) {
    convertOldFile(data, type => type in LiteGraph.registered_node_types);
    dropRowSockets(data);
    await translateNotes(data, locale());
  },

  loadedGraphNode(node) {
    showNotice(app, node);
  },

  setup() {
    extendOlderSearch(definitions);
    followHelpLinks(app, type => definitions.has(type));
    watchErrors(api, rootGraph, isOurs, (node, text) => {
      const blocks = countIn(text);
      if (blocks) teach(node, { blocks });
    });
    api.addEventListener("executed", ({ detail }) => { if (detail.output?.wan_store) refreshLists(api, app); });
    // A subgraph that is opened may have been set from outside meanwhile.
    app.canvas.canvas.addEventListener("litegraph:set-graph", ({ detail }) => {
      for (const node of detail.newGraph?._nodes ?? []) (builders.get(node) ?? editors.get(node))?.refresh();
    });
    api.addEventListener(EVENT, ({ detail }) => {
      const graph = rootGraph();
      if (detail.workflow && graph?.id && detail.workflow !== graph.id) return; // another one is open now
      editors.get(nodeByExecutionId(graph, detail.node))?.receive(detail);
    });
  },
});
