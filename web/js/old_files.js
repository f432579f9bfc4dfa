/**
 * Workflow files shared before this pack existed use its node ids with other sockets and widget orders.
 * `convertOldFile` brings them to today's names, in place, before the front end reads the graph. What has no
 * counterpart is named in a notice in the node's properties.
 */

export const NOTICE = "wanvideo_activation_editor.notice";

const LINK_FIELDS = ["id", "origin_id", "origin_slot", "target_id", "target_slot", "type"];
const ZEROS = "0".repeat(40);

const isBoolean = (value) => typeof value === "boolean";
const isNumber = (value) => typeof value === "number";
const isString = (value) => typeof value === "string";
const fits = (values, ...checks) => values.length === checks.length && checks.every((check, i) => check(values[i]));

/** [strength, enabled, debug] of a file without a block string. */
const isStrengthEnabledDebug = (values) => fits(values, isNumber, isBoolean, isBoolean);

/** Strengths went beyond 1 in early files. */
function unitStrength(strength) {
  const value = Math.min(1, Math.max(0, strength));
  return { value, lost: value === strength ? [] : [`injection_strength ${strength} is outside 0 to 1 and became ${value}`] };
}

const NO_MAIN_PROMPT = "text_embeds, the main prompt, was not an input of this node: connect it";

function editorValues(values) {
  if (!isNumber(values[0])) return { values };
  const { value: strength, lost } = unitStrength(values[0]);
  if (isStrengthEnabledDebug(values)) {
    const [, enabled, debug] = values;
    return { values: [strength, ZEROS, enabled, debug ? "basic" : "off", "context"], lost };
  }
  if (fits(values, isNumber, isString, isNumber, isNumber)) {
    const [, blocks, start, end] = values;
    return { values: [strength, blocks, true, "off", "context", start, end], lost: [...lost, NO_MAIN_PROMPT] };
  }
  if (fits(values, isNumber, isNumber, isNumber, isString)) {
    const [, alpha, delta, blocks] = values;
    return {
      values: [strength, blocks, true, "off", "context"],
      lost: [...lost, `alpha ${alpha} and delta ${delta} have no counterpart`, NO_MAIN_PROMPT],
    };
  }
  return { values: [strength, ...values.slice(1)], lost };
}

function perBlockEditorValues(values) {
  if (!isStrengthEnabledDebug(values)) return { values };
  const [given, enabled, debug] = values;
  const { value: strength, lost } = unitStrength(given);
  if (debug) lost.push("this node has no log: use WanVideo Activation Editor with log_level basic");
  return { values: [ZEROS, enabled, strength], lost };
}

/**
 * Four weights, the first for the base. Today the base has weight 1, so the others are divided by its old one, which
 * leaves a weighted sum and a normalized sum as they were and makes other results larger or smaller.
 */
function arithmeticValues(values) {
  if (!fits(values, isString, isNumber, isNumber, isNumber, isNumber)) return { values };
  const [operation, base, ...weights] = values;
  if (base === 1) return { values: [operation, ...weights] };
  if (base <= 0)
    return {
      values: [operation, ...weights],
      lost: [`the base had weight ${base} and now has 1: connect another prompt as base_embeds`],
    };
  const lost = [`the base had weight ${base} and now has 1, so the other weights were divided by ${base}`];
  if (!["weighted_sum", "normalize"].includes(operation)) lost.push(`the result is 1 / ${base} times what it was`);
  const relative = weights.map((weight, n) => {
    const limited = Math.min(10, Math.max(-10, weight / base));
    if (limited !== weight / base) lost.push(`weight_${n + 1} should be ${weight / base} and became ${limited}`);
    return limited;
  });
  return { values: [operation, ...relative], lost };
}

function databaseValues(values) {
  if (!fits(values, isString, isNumber)) return { values };
  return { values: [values[0]], lost: [`the number of rows, ${values[1]}, has no counterpart`] };
}

function strengthBuilderValues(values) {
  if (values.length < 5 || values[4] > 0) return { values };
  const lost = values[0] === "stepped" ? [`step_size ${values[4]} is below 1 and became 5`] : [];
  return { values: [...values.slice(0, 4), 5, ...values.slice(5)], lost };
}

/** Values of a node that takes another's place: its settings are named, and where its report comes out. */
const stoodIn = (name, values) => (given) => ({
  values,
  lost: [
    ...(given.length ? [`the settings ${given.join(", ")} have no counterpart`] : []),
    `${name} stands in for it: connect its text output to Preview Any`,
  ],
});

function latentInjectorValues(values) {
  if (!fits(values, isNumber, isNumber, isNumber, isString)) return { values };
  const [strength, start, end, mode] = values;
  return {
    values: [strength, ZEROS],
    lost: [
      `steps ${start} to ${end} and blend mode ${mode} have no counterpart: use start_percent and end_percent`,
      "main_latent and injection_latent come from WanVideo Latent Encoder",
    ],
  };
}

/**
 * Per node type: `type` it becomes, `inputs` {old name: new name}, `outputs` {old name: new name}, `passed` {old
 * output: input whose source takes its place}, `values` of the widgets. null: no counterpart. The names on the left
 * do not exist today, so a node that has none of them is left as it is.
 */
const CONVERSIONS = {
  WanVideoActivationEditor: {
    inputs: {
      activation_pattern: "block_activations",
      injection_conditioning: "injection_embeds",
      positive_conditioning: "injection_embeds",
    },
    values: editorValues,
  },
  WanVideoAdvancedActivationEditor: {
    inputs: { activation_pattern: "block_activations" },
    values: perBlockEditorValues,
  },
  WanVideoVectorDifference: {
    inputs: { embeddings_a: "text_embeds_a", embeddings_b: "text_embeds_b" },
    outputs: { difference: "difference_vector" },
  },
  WanVideoVectorArithmetic: {
    inputs: {
      embeddings_1: "base_embeds",
      embeddings_2: "operand_1",
      embeddings_3: "operand_2",
      embeddings_4: "operand_3",
    },
    outputs: { result: "result_embeds" },
    values: arithmeticValues,
  },
  WanVideoEmbeddingAnalyzer: {
    inputs: { embeddings: "text_embeds" },
    outputs: { analysis: "analysis_report", embeddings: "text_embeds" },
  },
  WanVideoEmbeddingDatabase: { outputs: { stats: "report", recent_operations: "report" }, values: databaseValues },
  WanVideoStrengthVisualizer: { outputs: { visualization: "text_visualization" } },
  WanVideoBlockActivationViewer: { outputs: { info: "visualization" } },
  WanVideoBlockStrengthBuilder: { values: strengthBuilderValues },
  WanVideoLatentInjector: {
    inputs: { main_latent: "main_latent", injection_latent: "injection_latent" },
    outputs: { blended_latent: null },
    values: latentInjectorValues,
  },
  WanVideoActivationDebugger: {
    type: "WanVideoInjectionTester",
    inputs: { baseline_embeds: null },
    outputs: { debug_report: "test_results" },
    passed: { model: "model", text_embeds: "text_embeds" },
    values: stoodIn("WanVideo Injection Tester", [true]),
  },
  WanVideoActivationValidator: {
    type: "WanVideoInjectionTester",
    outputs: { validation_report: "test_results", is_valid: null },
    passed: { model: "model", text_embeds: "text_embeds" },
    values: stoodIn("WanVideo Injection Tester", [true]),
  },
  WanVideoEmbeddingInspector: {
    type: "WanVideoEmbeddingAnalyzer",
    inputs: { embeddings: "text_embeds" },
    outputs: { inspection_report: "analysis_report", embeddings: "text_embeds", heatmap: null },
    values: stoodIn("WanVideo Embedding Analyzer", ["all", false]),
  },
  WanVideoBlockMonitor: {
    type: "WanVideoBlockActivationViewer",
    outputs: { monitor_config: null },
    passed: { model: "model" },
    values: stoodIn("WanVideo Block Activation Viewer", [true]),
  },
};

/** Outputs of the nodes above whose order in the file may differ from today's. */
const OUTPUTS = {
  WanVideoEmbeddingAnalyzer: ["analysis_report", "text_embeds"],
  WanVideoEmbeddingDatabase: ["report"],
  WanVideoInjectionTester: ["test_results"],
  WanVideoBlockActivationViewer: ["visualization"],
  WanVideoLatentInjector: ["model"],
};

/** Reads and writes a link of either form: an array in the root graph, an object in a subgraph. */
const get = (link, field) => (Array.isArray(link) ? link[LINK_FIELDS.indexOf(field)] : link[field]);
const set = (link, field, value) => {
  link[Array.isArray(link) ? LINK_FIELDS.indexOf(field) : field] = value;
};

class Graph {
  constructor(data) {
    this.data = data;
    this.nodes = new Map(data.nodes.filter(Boolean).map((node) => [node.id, node]));
  }

  link(id) {
    return (this.data.links ?? []).find((link) => link && get(link, "id") === id);
  }

  linksFrom(node, slot) {
    return (this.data.links ?? []).filter(
      (link) => link && get(link, "origin_id") === node.id && get(link, "origin_slot") === slot,
    );
  }

  /** Some files use one link id for two inputs, and only the first would stay connected: give the other its own. */
  repair(node) {
    for (const [slot, input] of (node.inputs ?? []).entries()) {
      const link = this.link(input.link);
      if (!link || (get(link, "target_id") === node.id && get(link, "target_slot") === slot)) continue;
      if (this.nodes.get(get(link, "target_id"))?.inputs?.[get(link, "target_slot")]?.link !== input.link) continue;
      const id = 1 + Math.max(...this.data.links.filter(Boolean).map((other) => get(other, "id")));
      const copy = structuredClone(link);
      for (const [field, value] of [["id", id], ["target_id", node.id], ["target_slot", slot]]) set(copy, field, value);
      this.data.links.push(copy);
      input.link = id;
      this.nodes.get(get(link, "origin_id"))?.outputs?.[get(link, "origin_slot")]?.links?.push(id);
      if (isNumber(this.data.last_link_id)) this.data.last_link_id = Math.max(this.data.last_link_id, id);
    }
  }

  cut(link) {
    const id = get(link, "id");
    const target = this.nodes.get(get(link, "target_id"));
    const origin = this.nodes.get(get(link, "origin_id"));
    for (const input of target?.inputs ?? []) if (input.link === id) input.link = null;
    for (const output of origin?.outputs ?? []) output.links = output.links?.filter((other) => other !== id) ?? null;
    this.data.links = this.data.links.filter((other) => other !== link);
  }

  /** Let a link begin where another one does. */
  moveOrigin(link, source) {
    const id = get(link, "id");
    for (const output of this.nodes.get(get(link, "origin_id"))?.outputs ?? [])
      output.links = output.links?.filter((other) => other !== id) ?? null;
    for (const field of ["origin_id", "origin_slot", "type"]) set(link, field, get(source, field));
    const output = this.nodes.get(get(source, "origin_id"))?.outputs?.[get(source, "origin_slot")];
    if (output) output.links = [...(output.links ?? []), id];
  }
}

const hasOldName = (slots, names) => (slots ?? []).some(({ name }) => Object.hasOwn(names, name));

function convertInputs(graph, node, names, lost) {
  for (const input of node.inputs ?? []) {
    if (!Object.hasOwn(names, input.name)) continue;
    const [old, link] = [input.name, graph.link(input.link)];
    if (names[old] === old) {
      if (link && input.type === "LATENT") graph.cut(link); // of another type today
    } else if (names[old] === null) {
      if (link) {
        graph.cut(link);
        lost.push(`the input ${old} has no counterpart`);
      }
    } else {
      input.name = names[old];
      if (input.type === "WAN_ACTIVATION") input.type = "STRING";
      if (link && get(link, "type") === "WAN_ACTIVATION") set(link, "type", "STRING");
    }
  }
  node.inputs = node.inputs?.filter(({ name }) => names[name] !== null);
  node.inputs?.forEach((input, slot) => {
    const link = graph.link(input.link);
    if (link) set(link, "target_slot", slot);
  });
}

function convertOutputs(graph, node, conversion, lost) {
  const { outputs: names = {}, passed = {} } = conversion;
  const kept = [];
  for (const [slot, output] of (node.outputs ?? []).entries()) {
    const links = graph.linksFrom(node, slot);
    if (Object.hasOwn(passed, output.name)) {
      const source = graph.link(node.inputs?.find(({ name }) => name === passed[output.name])?.link);
      for (const link of links) source ? graph.moveOrigin(link, source) : graph.cut(link);
      if (links.length && !source)
        lost.push(`the output ${output.name} led on from an input that is not connected: connect its source instead`);
      continue;
    }
    const name = Object.hasOwn(names, output.name) ? names[output.name] : output.name;
    if (name === null || kept.some((other) => other.output.name === name)) {
      if (links.length) lost.push(`the output ${output.name} has no counterpart`);
      links.forEach((link) => graph.cut(link));
      continue;
    }
    if (output.type === "WAN_ACTIVATION") output.type = "STRING";
    output.name = name;
    kept.push({ output, links });
  }
  const order = OUTPUTS[conversion.type ?? node.type];
  if (order) kept.sort((a, b) => order.indexOf(a.output.name) - order.indexOf(b.output.name));
  kept.forEach(({ output, links }, slot) => {
    if (isNumber(output.slot_index)) output.slot_index = slot;
    links.forEach((link) => set(link, "origin_slot", slot));
  });
  node.outputs = kept.map(({ output }) => output);
}

function convertNode(graph, node, isInstalled) {
  const conversion = CONVERSIONS[node.type];
  if (!conversion || (conversion.type && isInstalled(node.type))) return;
  const { inputs = {}, outputs = {} } = conversion;
  const lost = [];
  graph.repair(node);
  if (Array.isArray(node.widgets_values) && conversion.values) {
    const converted = conversion.values(node.widgets_values);
    node.widgets_values = converted.values;
    lost.push(...(converted.lost ?? []));
  }
  if (conversion.type || hasOldName(node.inputs, inputs) || hasOldName(node.outputs, outputs)) {
    convertInputs(graph, node, inputs, lost);
    convertOutputs(graph, node, conversion, lost);
  }
  if (conversion.type) {
    lost.unshift(`this node was ${node.type}, which is not part of this pack`);
    node.type = conversion.type;
    node.properties = { ...node.properties, "Node name for S&R": conversion.type };
  }
  if (lost.length) node.properties = { ...node.properties, [NOTICE]: `From an older file: ${lost.join("; ")}.` };
}

/**
 * Convert a workflow, and the subgraphs in it, to today's sockets and widget orders.
 *
 * @param {object} data the workflow as the front end saves it; changed in place. One of today is not changed.
 * @param {(type: string) => boolean} isInstalled true for node types that exist; none of them is replaced by another.
 */
export function convertOldFile(data, isInstalled = () => false) {
  for (const part of [data, ...(data?.definitions?.subgraphs ?? [])]) {
    if (!Array.isArray(part?.nodes)) continue;
    const graph = new Graph(part);
    for (const node of graph.nodes.values()) convertNode(graph, node, isInstalled);
  }
}
