// Menus of stored names take in what a run has stored, without pressing R.

import { coalesced } from "./widgets.js";

const LISTS = { WanVideoLoadEmbedding: "embedding" };

function* nodesIn(graph) {
  for (const node of graph?._nodes ?? []) {
    yield node;
    yield* nodesIn(node.subgraph);
  }
}

/** The options of a combo input in a node's definition, in the forms that ComfyUI's versions serve. */
export function optionsOf(definition, name) {
  const [kind, options] = definition?.input?.required?.[name] ?? [];
  return Array.isArray(kind) ? kind : options?.options ?? [];
}

async function refresh(api, app) {
  const graph = app.rootGraph ?? app.graph?.rootGraph ?? app.graph;
  for (const [type, name] of Object.entries(LISTS)) {
    const nodes = [...nodesIn(graph)].filter(node => node.type === type);
    if (!nodes.length) continue;
    const response = await api.fetchApi(`/object_info/${type}`);
    if (!response.ok) continue;
    const values = optionsOf((await response.json())[type], name);
    for (const node of nodes) {
      const widget = node.widgets?.find(w => w.name === name);
      if (widget) widget.options.values = values;
    }
  }
}

let latest = null;

/** Read the lists again; several stores in one moment ask once. */
export function refreshLists(api, app) {
  latest ??= coalesced(() => refresh(api, app).catch(error => console.warn("WanVideo Activation Editor:", error)));
  latest();
}
