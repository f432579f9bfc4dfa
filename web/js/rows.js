// The forty rows of a builder node: widgets without sockets, since the picture hides both.
//
// Sockets are most of what such a node costs the page and the file. A row keeps its widget, its value and its place in
// `widgets_values`. A row that a file links keeps its socket; the front end completes it.

import { widgetNamed } from "./widgets.js";

const ROWS = { WanVideoBlockActivationBuilder: /^block_\d+$/, WanVideoBlockStrengthBuilder: /^block_\d+_strength$/ };
const TYPES = { BOOLEAN: "WAN_AE_SWITCH", FLOAT: "WAN_AE_STRENGTH" };
const DRAWN_AS = { BOOLEAN: "toggle", FLOAT: "number" };

const isRow = (kind, name) => ROWS[kind]?.test(name) ?? false;

const makeRow = type => (node, name, [, { default: value, min, max, step }]) => {
  const options = { min, max, step2: step, socketless: true };
  const plain = { type: DRAWN_AS[type], name, value, y: 0, callback: () => {}, options };
  // Newer front ends merge a widget that can be extended into one of their own, property by property.
  const widget = node.addCustomWidget(Object.preventExtensions(plain));
  widget.type = ""; // Nodes 2.0 passes over a widget without a type
  return { widget };
};

/** Widget type -> what makes one, for the front end's getCustomWidgets. */
export const ROW_WIDGETS = Object.fromEntries(Object.entries(TYPES).map(([type, own]) => [own, makeRow(type)]));

/** Have the front end make the rows of a builder's definition without sockets. */
export function defineRows({ name: kind, input }) {
  if (!(kind in ROWS)) return;
  for (const [name, [type, spec]] of Object.entries(input.optional ?? {}))
    if (isRow(kind, name)) spec.widgetType = TYPES[type];
}

/** Leave out the sockets of rows that are not linked, from a file that the front end is about to read. */
export function dropRowSockets(data) {
  for (const graph of [data, ...(data.definitions?.subgraphs ?? [])])
    for (const node of graph.nodes ?? [])
      if (node.type in ROWS && Array.isArray(node.inputs))
        node.inputs = node.inputs.filter(input => input.link != null || !isRow(node.type, input.name));
}

/** Have Nodes 2.0 draw the rows that are linked, where it can. */
export function drawLinkedRows(node) {
  const { name: kind, input } = node.constructor.nodeData;
  for (const { name } of node.inputs)
    if (isRow(kind, name)) widgetNamed(node, name).type = DRAWN_AS[input.optional[name][0]];
}

/** Give a row a socket: a file in API format links inputs by name, and the front end asks for those it does not find. */
export function addRowSocket(node, { name }) {
  const { name: kind, input } = node.constructor.nodeData;
  if (!isRow(kind, name)) return false;
  node.addInput(name, input.optional[name][0], { widget: { name } });
  drawLinkedRows(node);
  return true;
}
