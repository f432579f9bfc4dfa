// The forty rows of a builder node: widgets without sockets, since the picture hides both.
//
// Sockets are most of such a node in a file and up to 60% of its cost to the page (benchmarks/README.md). A row
// keeps its widget, its value and its place in `widgets_values`. A row that a file links keeps its socket.

import { widgetNamed } from "./widgets.js";

const ROWS = { WanVideoBlockActivationBuilder: /^block_\d+$/, WanVideoBlockStrengthBuilder: /^block_\d+_strength$/ };
const TYPES = { BOOLEAN: "WAN_AE_SWITCH", FLOAT: "WAN_AE_STRENGTH" };
const DRAWN_AS = { BOOLEAN: "toggle", FLOAT: "number" };

const isRow = (kind, name) => Object.hasOwn(ROWS, kind) && ROWS[kind].test(name);

/** The definition's type of a node's row; undefined for another input, and for a row that a file has made up. */
function typeOfRow({ constructor: { nodeData: { name: kind, input } } }, name) {
  return isRow(kind, name) ? input.optional?.[name]?.[0] : undefined;
}

/** Give a node its rows, [name, [type, spec]] each, at once: newer front ends go through all widgets at each change. */
function addRows(node, rows) {
  const made = rows.map(([name, [type, { default: value, min, max, step }]]) => {
    const options = { min, max, step2: step, socketless: true };
    // For speed: newer front ends merge a widget that can be extended into one of their own, property by property.
    // Disabled widgets are left out of the panel in which a subgraph's widgets are promoted.
    return Object.preventExtensions({ type: DRAWN_AS[type], name, value, y: 0, callback: () => {}, options, disabled: true });
  });
  if (Object.getOwnPropertyDescriptor(node, "widgets")?.get) node.widgets.push(...made);
  else for (const row of made) node.addCustomWidget(row);
  for (const [name] of rows) conceal(widgetNamed(node, name));
}

/** For speed too: Nodes 2.0 passes over a widget without a type, and keeps no record of one that it has no id for. */
function conceal(row) {
  row.type = "";
  row.setNodeId = () => {};
}

/** Let a row that has a socket be drawn, where the renderer can. */
function reveal(node, row, type) {
  row.type = DRAWN_AS[type];
  row.disabled = false;
  delete row.setNodeId;
  if (node.graph) row.setNodeId?.(node.id);
}

/** Take a concealed row out and in again: at a change, Nodes 2.0 takes over the order of the widgets that it draws. */
function reorder({ widgets }) {
  const at = widgets.findIndex(widget => widget.type === "");
  if (at >= 0) widgets.splice(at, 0, ...widgets.splice(at, 1));
}

/** What the front end calls for each row; the first brings all of them, except where a group node has made up others. */
const rowOf = type => (node, name, [, spec]) => {
  const { name: kind, input } = node.constructor.nodeData ?? {};
  if (!widgetNamed(node, name))
    addRows(node, isRow(kind, name) ? Object.entries(input.optional).filter(([other]) => isRow(kind, other)) : [[name, [type, spec]]]);
  return { widget: widgetNamed(node, name) };
};

/** Widget type -> what makes one, for the front end's getCustomWidgets. */
export const ROW_WIDGETS = Object.fromEntries(Object.entries(TYPES).map(([type, own]) => [own, rowOf(type)]));

/** Have the front end make the rows of a builder's definition without sockets, and leave them out of its previews. */
export function defineRows({ name: kind, input }) {
  if (!Object.hasOwn(ROWS, kind)) return; // asked for every node type that the server has
  for (const [name, [type, spec]] of Object.entries(input?.optional ?? {}))
    if (isRow(kind, name)) Object.assign(spec, { widgetType: TYPES[type], hidden: true });
}

/** Leave out the sockets of rows that are not linked, from a file that the front end is about to read. */
export function dropRowSockets(data) {
  for (const graph of [data, ...(data.definitions?.subgraphs ?? [])])
    for (const node of graph.nodes ?? [])
      if (Object.hasOwn(ROWS, node.type) && Array.isArray(node.inputs))
        node.inputs = node.inputs.filter(input => input.link != null || !isRow(node.type, input.name));
}

/**
 * Complete the sockets of a builder node that was configured from a file, a blueprint or the clipboard: links know where
 * they end although rows have left, and Nodes 2.0 draws the rows that have a socket, where it can.
 */
export function completeSockets(node) {
  let isRevealed = false;
  for (const [slot, input] of node.inputs.entries()) {
    const link = input.link == null ? null : node.graph?.getLink?.(input.link) ?? node.graph?.links?.get?.(input.link);
    if (link && link.target_id === node.id) link.target_slot = slot;
    const type = typeOfRow(node, input.name);
    if (!type) continue;
    input.widget ??= { name: input.name };
    reveal(node, widgetNamed(node, input.name), type);
    isRevealed = true;
  }
  if (isRevealed) reorder(node);
}

/** Give a row a socket: a file in API format links inputs by name, and the front end asks for those it does not find. */
export function addRowSocket(node, { name }) {
  const type = typeOfRow(node, name);
  if (!type) return false;
  node.addInput(name, type, { widget: { name } });
  completeSockets(node);
  return true;
}
