/** Files of the earlier node ids, in the forms that were shared, against today's sockets and values. */

import assert from "node:assert/strict";
import test from "node:test";

import { NOTICE, convertOldFile } from "../../web/js/old_files.js";

const ZEROS = "0".repeat(40);
const TEXT = "WANVIDEOTEXTEMBEDS";

/** Nodes as {type, values, in: [name, ...], out: [name, ...]}, links as [from, slot, to, input name]. */
function file(nodes, links = [], form = (link) => link) {
  const data = {
    nodes: nodes.map((node, id) => ({
      id,
      type: node.type,
      inputs: (node.in ?? []).map((name) => ({ name, type: name === "activation_pattern" ? "WAN_ACTIVATION" : TEXT, link: null })),
      outputs: (node.out ?? []).map((name) => ({ name, type: TEXT, links: [] })),
      widgets_values: node.values,
    })),
  };
  data.links = links.map(([from, slot, to, name], index) => {
    const input = data.nodes[to].inputs.findIndex((other) => other.name === name);
    data.nodes[to].inputs[input].link = index + 1;
    data.nodes[from].outputs[slot].links.push(index + 1);
    return form([index + 1, from, slot, to, input, data.nodes[to].inputs[input].type]);
  });
  return data;
}

const converted = (...args) => {
  const data = file(...args);
  convertOldFile(data);
  return data;
};
const names = (slots) => slots.map(({ name }) => name);

test("an editor with activation_pattern reads the builder's blocks", () => {
  const data = converted(
    [
      { type: "WanVideoBlockActivationBuilder", values: ["early_blocks"], out: ["block_activations"] },
      {
        type: "WanVideoActivationEditor",
        values: [0.25, true, true],
        in: ["model", "text_embeds", "injection_embeds", "activation_pattern"],
        out: ["model", "text_embeds"],
      },
    ],
    [[0, 0, 1, "activation_pattern"]],
  );
  const [, editor] = data.nodes;
  assert.deepEqual(names(editor.inputs), ["model", "text_embeds", "injection_embeds", "block_activations"]);
  assert.equal(editor.inputs[3].type, "STRING");
  assert.deepEqual(data.links, [[1, 0, 0, 1, 3, "STRING"]]);
  assert.deepEqual(editor.widgets_values, [0.25, ZEROS, true, "basic", "context"]);
  assert.equal(editor.properties?.[NOTICE], undefined);
});

test("the first editors keep strength, blocks and window, and name what is missing", () => {
  const windowed = converted([
    { type: "WanVideoActivationEditor", values: [0.5, "0101", 0.2, 0.8], in: ["model", "injection_conditioning"] },
  ]).nodes[0];
  assert.deepEqual(windowed.widgets_values, [0.5, "0101", true, "off", "context", 0.2, 0.8]);
  assert.deepEqual(names(windowed.inputs), ["model", "injection_embeds"]);
  assert.match(windowed.properties[NOTICE], /text_embeds/);

  const first = converted([
    { type: "WanVideoActivationEditor", values: [0.5, 1.5, 2, "0101"], in: ["model", "positive_conditioning"] },
  ]).nodes[0];
  assert.deepEqual(first.widgets_values, [0.5, "0101", true, "off", "context"]);
  assert.match(first.properties[NOTICE], /alpha 1.5 and delta 2/);
});

test("the per-block editor keeps its strength", () => {
  const [node] = converted([
    { type: "WanVideoAdvancedActivationEditor", values: [0.3, false, false], in: ["activation_pattern"] },
  ]).nodes;
  assert.deepEqual(node.widgets_values, [ZEROS, false, 0.3]);
  assert.deepEqual(names(node.inputs), ["block_activations"]);
});

test("arithmetic: the first of four weights becomes the unit of the others", () => {
  const build = (values) =>
    converted([
      {
        type: "WanVideoVectorArithmetic",
        values,
        in: ["embeddings_1", "embeddings_2", "embeddings_3", "embeddings_4"],
        out: ["result"],
      },
    ]).nodes[0];
  const node = build(["weighted_sum", 0.5, 0.25, -0.125, 0]);
  assert.deepEqual(names(node.inputs), ["base_embeds", "operand_1", "operand_2", "operand_3"]);
  assert.deepEqual(names(node.outputs), ["result_embeds"]);
  assert.deepEqual(node.widgets_values, ["weighted_sum", 0.5, -0.25, 0]);
  assert.match(node.properties[NOTICE], /weight 0.5/);
  assert.doesNotMatch(node.properties[NOTICE], /times what it was/);
  assert.deepEqual(build(["add", 1, 0.5, 0.5, 0.5]).properties, undefined);
  const limited = build(["add", 0.01, 1, -0.05, 0]);
  assert.deepEqual(limited.widgets_values, ["add", 10, -5, 0]);
  assert.match(limited.properties[NOTICE], /1 \/ 0.01 times what it was; weight_1 should be 100 and became 10/);
  const none = build(["add", 0, 1, 2, 3]);
  assert.deepEqual(none.widgets_values, ["add", 1, 2, 3]);
  assert.match(none.properties[NOTICE], /had weight 0 and now has 1: connect another prompt/);
});

test("a strength beyond today's range is limited and named", () => {
  const build = (values) => converted([{ type: "WanVideoActivationEditor", values, in: ["model"] }]).nodes[0];
  assert.deepEqual(build([1.5, "01", 0, 1]).widgets_values.slice(0, 2), [1, "01"]);
  assert.match(build([5, 0.8, 1, "01"]).properties[NOTICE], /injection_strength 5 is outside 0 to 1 and became 1/);
  assert.match(build([-2, true, false]).properties[NOTICE], /became 0/);
});

test("a LATENT no longer fits the latent injector", () => {
  const data = file(
    [{ type: "Sampler", out: ["latent"] }, { type: "WanVideoLatentInjector", values: [0.5, 0, 20, "linear"], in: ["model", "main_latent"] }],
    [[0, 0, 1, "main_latent"]],
  );
  data.nodes[1].inputs[1].type = "LATENT";
  convertOldFile(data);
  assert.deepEqual(data.links, []);
  assert.equal(data.nodes[1].inputs[1].link, null);
  assert.match(data.nodes[1].properties[NOTICE], /steps 0 to 20 .* WanVideo Latent Encoder/);
});

test("nodes that another pack provides stay what they are", () => {
  const data = file([{ type: "WanVideoBlockMonitor", values: ["0,10"], in: ["model"], out: ["model"] }]);
  const before = structuredClone(data);
  convertOldFile(data, (type) => type === "WanVideoBlockMonitor");
  assert.deepEqual(data, before);
});

test("an output that leads on from nothing is named", () => {
  const data = converted(
    [{ type: "WanVideoBlockMonitor", values: [], in: ["model"], out: ["model"] }, { type: "Sampler", in: ["model"] }],
    [[0, 0, 1, "model"]],
  );
  assert.deepEqual(data.links, []);
  assert.match(data.nodes[0].properties[NOTICE], /the output model led on from an input that is not connected/);
});

test("the analyzer's outputs change places and so do their links", () => {
  const data = converted(
    [
      { type: "WanVideoEmbeddingAnalyzer", values: [], in: ["embeddings"], out: ["embeddings", "analysis"] },
      { type: "Reader", in: ["a", "b"] },
    ],
    [
      [0, 0, 1, "a"],
      [0, 1, 1, "b"],
    ],
  );
  assert.deepEqual(names(data.nodes[0].outputs), ["analysis_report", "text_embeds"]);
  assert.deepEqual(names(data.nodes[0].inputs), ["text_embeds"]);
  assert.deepEqual(
    data.links.map(([id, , slot]) => [id, slot]),
    [
      [1, 1],
      [2, 0],
    ],
  );
});

test("the database's number of rows is not taken for days of a clean-up", () => {
  const data = converted(
    [
      { type: "WanVideoEmbeddingDatabase", values: ["cleanup", 10], out: ["stats", "recent_operations"] },
      { type: "Reader", in: ["a"] },
    ],
    [[0, 1, 1, "a"]],
  );
  const [node, reader] = data.nodes;
  assert.deepEqual(node.widgets_values, ["cleanup"]);
  assert.deepEqual(names(node.outputs), ["report"]);
  assert.deepEqual(data.links, []);
  assert.equal(reader.inputs[0].link, null);
  assert.match(node.properties[NOTICE], /number of rows, 10/);
  assert.match(node.properties[NOTICE], /recent_operations/);
});

test("debugging nodes become their nearest relatives and stay out of the way", () => {
  const data = converted(
    [
      { type: "Loader", out: ["model"] },
      { type: "Encoder", out: ["text_embeds"] },
      {
        type: "WanVideoActivationDebugger",
        values: ["detailed", true],
        in: ["model", "text_embeds", "baseline_embeds"],
        out: ["model", "text_embeds", "debug_report"],
      },
      { type: "WanVideoBlockMonitor", values: ["0,10"], in: ["model"], out: ["model", "monitor_config"] },
      { type: "Sampler", in: ["model", "text_embeds", "report"] },
    ],
    [
      [0, 0, 2, "model"],
      [1, 0, 2, "text_embeds"],
      [1, 0, 2, "baseline_embeds"],
      [2, 0, 3, "model"],
      [3, 0, 4, "model"],
      [2, 1, 4, "text_embeds"],
      [2, 2, 4, "report"],
    ],
  );
  const [loader, encoder, tester, viewer] = data.nodes;
  assert.equal(tester.type, "WanVideoInjectionTester");
  assert.equal(viewer.type, "WanVideoBlockActivationViewer");
  assert.deepEqual(names(tester.inputs), ["model", "text_embeds"]);
  assert.deepEqual(names(tester.outputs), ["test_results"]);
  const at = new Map(data.links.map(([id, from, slot, to]) => [id, [from, slot, to]]));
  assert.deepEqual(at.get(4), [0, 0, 3], "the monitor reads the loader's model");
  assert.deepEqual(at.get(5), [0, 0, 4], "the sampler reads the loader's model");
  assert.deepEqual(at.get(6), [1, 0, 4]);
  assert.deepEqual(at.get(7), [2, 0, 4]);
  assert.equal(at.has(3), false);
  assert.deepEqual(loader.outputs[0].links.sort(), [1, 4, 5]);
  assert.deepEqual(encoder.outputs[0].links.sort(), [2, 6]);
  assert.match(tester.properties[NOTICE], /was WanVideoActivationDebugger/);
  assert.match(tester.properties[NOTICE], /baseline_embeds/);
  assert.match(tester.properties[NOTICE], /settings detailed, true have no counterpart.*Preview Any/);
});

test("a link id that two inputs use becomes two links", () => {
  const data = file(
    [
      { type: "WanVideoBlockStrengthBuilder", values: [], out: ["block_strengths"] },
      { type: "WanVideoAdvancedActivationEditor", values: [], in: ["block_strengths"] },
      { type: "WanVideoStrengthVisualizer", values: [], in: ["block_strengths"] },
    ],
    [[0, 0, 1, "block_strengths"]],
  );
  data.nodes[2].inputs[0].link = 1;
  convertOldFile(data);
  assert.deepEqual(data.links, [
    [1, 0, 0, 1, 0, TEXT],
    [2, 0, 0, 2, 0, TEXT],
  ]);
  assert.deepEqual(data.nodes[0].outputs[0].links, [1, 2]);
  assert.equal(data.nodes[2].inputs[0].link, 2);
});

test("subgraphs are converted, their links being objects", () => {
  const fields = ["id", "origin_id", "origin_slot", "target_id", "target_slot", "type"];
  const inner = file(
    [
      { type: "WanVideoEmbeddingAnalyzer", values: [], in: ["embeddings"], out: ["embeddings", "analysis"] },
      { type: "Reader", in: ["a"] },
    ],
    [[0, 0, 1, "a"]],
    (link) => Object.fromEntries(fields.map((field, i) => [field, link[i]])),
  );
  convertOldFile({ nodes: [], links: [], definitions: { subgraphs: [inner] } });
  assert.equal(inner.links[0].origin_slot, 1);
  assert.deepEqual(names(inner.nodes[0].inputs), ["text_embeds"]);
});

test("a file of today stays as it is", () => {
  const today = file(
    [
      {
        type: "WanVideoActivationEditor",
        values: [0.5, ZEROS, true, "off", "context", 0, 1, "cond"],
        in: ["model", "text_embeds", "injection_embeds", "block_strengths", "block_activations"],
        out: ["model", "text_embeds"],
      },
      { type: "WanVideoEmbeddingAnalyzer", values: ["all", true], in: ["text_embeds"], out: ["analysis_report", "text_embeds"] },
      { type: "WanVideoVectorArithmetic", values: ["add", 0.5, 1, 1], in: ["base_embeds"], out: ["result_embeds"] },
      { type: "WanVideoEmbeddingDatabase", values: ["stats", 30, 5], out: ["report"] },
      { type: "WanVideoBlockStrengthBuilder", values: ["stepped", 0.5, 20, 5, 5], out: ["block_strengths"] },
      { type: "WanVideoLatentInjector", values: [0.5, ZEROS], out: ["model"] },
    ],
    [[0, 1, 1, "text_embeds"]],
  );
  const before = structuredClone(today);
  convertOldFile(today);
  assert.deepEqual(today, before);
});

test("a graph without nodes or links is no error", () => {
  for (const data of [null, {}, { nodes: {} }, { nodes: [null] }, { nodes: [] }, { nodes: [{ id: 1, type: "WanVideoActivationEditor" }] }]) convertOldFile(data);
});
