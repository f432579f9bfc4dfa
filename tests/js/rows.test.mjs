import assert from "node:assert/strict";
import test from "node:test";

import { ROW_WIDGETS, addRowSocket, completeSockets, defineRows, dropRowSockets } from "../../web/js/rows.js";

const KIND = "WanVideoBlockActivationBuilder";

const definition = () => ({
  name: KIND,
  input: {
    required: { preset: [["custom", "all"], {}] },
    optional: { block_0: ["BOOLEAN", { default: false }], block_1: ["BOOLEAN", { default: false }], note: ["STRING", {}] },
  },
});

const builder = (names, linked = []) => ({
  constructor: { nodeData: definition() },
  widgets: ["preset", "block_0", "block_1"].map(name => ({ name, type: "" })),
  inputs: names.map(name => ({ name, link: linked.includes(name) ? 1 : null })),
  addInput(name, type, extra) { this.inputs.push({ name, type, link: null, ...extra }); },
  addCustomWidget(widget) { const made = { ...widget }; this.widgets.push(made); return made; },
});

test("rows of a definition get a widget of their own, other inputs and other nodes stay", () => {
  const data = definition();
  defineRows(data);
  const { preset } = data.input.required, { block_0, block_1, note } = data.input.optional;
  assert.deepEqual([block_0[1].widgetType, block_1[1].widgetType], ["WAN_AE_SWITCH", "WAN_AE_SWITCH"]);
  assert.equal(block_0[1].hidden, true, "or previews draw forty empty rows");
  assert.deepEqual([block_0[0], preset[1], note[1]], ["BOOLEAN", {}, {}]);
  const other = { ...definition(), name: "CLIPTextEncode" };
  defineRows(other);
  assert.deepEqual(other, { ...definition(), name: "CLIPTextEncode" });
});

test("a row's widget holds the default, takes no socket and is not drawn", () => {
  const node = builder([]);
  const { widget } = ROW_WIDGETS.WAN_AE_STRENGTH(node, "block_3_strength", ["FLOAT", { default: 0.25, min: 0, max: 1, step: 0.01 }]);
  assert.equal(widget, node.widgets.at(-1));
  assert.deepEqual([widget.name, widget.value, widget.type, widget.options.max], ["block_3_strength", 0.25, "", 1]);
  assert.equal(widget.options.socketless, true);
});

test("sockets of rows go unless they are linked, in the graph and in its subgraphs", () => {
  const saved = linked => ({ type: KIND, inputs: builder(["preset", "block_0", "block_1"], linked).inputs });
  const other = { type: "Other", inputs: [{ name: "block_0", link: null }] };
  const data = { nodes: [saved(["block_1"]), other, { type: KIND }], definitions: { subgraphs: [{ nodes: [saved([])] }] } };
  dropRowSockets(data);
  const names = node => node.inputs?.map(input => input.name);
  assert.deepEqual(data.nodes.map(names), [["preset", "block_1"], ["block_0"], undefined]);
  assert.deepEqual(data.definitions.subgraphs[0].nodes.map(names), [["preset"]]);
});

test("a row with a socket is drawn and has its widget; a row that no definition knows is left alone", () => {
  const node = builder(["preset", "block_1", "block_77"]);
  completeSockets(node);
  assert.deepEqual(node.widgets.map(w => w.type), ["", "", "toggle"]);
  assert.deepEqual(node.inputs.map(input => input.widget), [undefined, { name: "block_1" }, undefined]);
});

test("links know the slot that they end at; those of other nodes stay", () => {
  const node = { ...builder(["preset", "block_1"], ["preset", "block_1"]), id: 1 };
  [node.inputs[0].link, node.inputs[1].link] = [3, 4];
  const links = new Map([[3, { target_id: 9, target_slot: 0 }], [4, { target_id: 1, target_slot: 2 }]]);
  for (const graph of [{ links }, { getLink: id => links.get(id) }]) {
    links.get(4).target_slot = 2;
    completeSockets(Object.assign(node, { graph }));
    assert.deepEqual([links.get(3).target_slot, links.get(4).target_slot], [0, 1]);
  }
});

test("a row gets a socket where a file in API format links it; other inputs do not", () => {
  const node = builder(["preset"]);
  assert.equal(addRowSocket(node, { name: "block_0" }), true);
  assert.deepEqual(node.inputs.at(-1), { name: "block_0", type: "BOOLEAN", link: null, widget: { name: "block_0" } });
  assert.equal(node.widgets[1].type, "toggle");
  assert.equal(addRowSocket(node, { name: "preset" }), false);
  assert.equal(node.inputs.length, 2);
});
