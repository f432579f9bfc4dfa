// What runs told about a node: the model's block count and the strengths that were resolved. It is part of the node's
// properties, so it stays with the file; a copy for the open page brings it back where undo takes it away.

const PROPERTY = "wan_activation_editor_last_run";
const COUNT_IN_ERROR = /the model has (\d+) blocks/;
const memory = new Map();

const rootOf = node => node.graph?.rootGraph ?? node.graph;
const keyOf = node => `${rootOf(node)?.id ?? ""}/${node.graph?.id ?? ""}/${node.id}`;

/** Where a node's model comes from, as text. */
function sourceOf(node) {
  const id = node.inputs?.find(input => input.name === "model")?.link;
  const link = id == null ? null : node.graph?.getLink?.(id) ?? node.graph?.links?.get?.(id);
  return link ? `${link.origin_id}:${link.origin_slot}` : "";
}

/** { blocks, strengths?, source } of a node's last run; null before it. */
export function known(node) {
  const told = node.properties?.[PROPERTY];
  return Number.isInteger(told?.blocks) && told.blocks > 0 ? told : null;
}

/** Keep what a run told. */
export function learn(app, node, { blocks, strengths }) {
  if (!Number.isInteger(blocks)) return;
  const before = known(node);
  const told = { blocks, strengths: strengths ?? (before?.blocks === blocks ? before.strengths : undefined), source: sourceOf(node) };
  if (told.strengths === undefined) delete told.strengths;
  if (JSON.stringify(before) === JSON.stringify(told)) return;
  node.properties[PROPERTY] = told;
  memory.set(keyOf(node), told);
  keepOutOfUndo(app, node);
}

/** Drop what is known if the model comes from elsewhere now; true if it was dropped. */
export function forgetIfRewired(node) {
  const told = known(node);
  if (!told || node.graph?.getNodeById(node.id) !== node || told.source === sourceOf(node)) return false;
  memory.delete(keyOf(node));
  delete node.properties[PROPERTY];
  return true;
}

/** For a node that was configured: what the page knows of it and the file does not say. */
export function recall(node) {
  const told = known(node) ?? memory.get(keyOf(node));
  if (!told) return;
  node.properties[PROPERTY] = told;
  memory.set(keyOf(node), told);
}

/** The block count that an error's text names; undefined if it names none. */
export function countIn(text) {
  const found = COUNT_IN_ERROR.exec(text ?? "");
  return found ? Number(found[1]) : undefined;
}

/** A run is no edit of the user's, so the state that the undo history compares with gets it too. */
function keepOutOfUndo(app, node) {
  const state = app.extensionManager?.workflow?.activeWorkflow?.changeTracker?.activeState;
  if (!state) return;
  const inner = state.definitions?.subgraphs?.find(graph => graph.id === node.graph?.id);
  const saved = (inner ?? state).nodes?.find(other => String(other.id) === String(node.id));
  if (saved) saved.properties = { ...saved.properties, [PROPERTY]: node.properties[PROPERTY] };
}
