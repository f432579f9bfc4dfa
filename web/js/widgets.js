// The front end's nodes and widgets, as this extension uses them.

/** Call `after` whenever `object[key]` was called, with the same arguments; what was there still runs. */
export function chain(object, key, after) {
  const before = object[key];
  object[key] = function (...args) {
    const result = before?.apply(this, args);
    after.apply(this, args);
    return result;
  };
}

/** Call `after` whenever `object[key]` was set. */
export function watch(object, key, after) {
  const own = Object.getOwnPropertyDescriptor(object, key);
  let value = own?.value;
  Object.defineProperty(object, key, {
    configurable: true,
    enumerable: own?.enumerable ?? true,
    get: () => (own?.get ? own.get.call(object) : value),
    set: next => {
      if (own?.set) own.set.call(object, next);
      else value = next;
      after();
    },
  });
}

export function widgetNamed(node, name) {
  return node.widgets?.find(w => w.name === name);
}

const SUBGRAPH_INPUTS = -10; // the front end's id of where a subgraph's inputs come in

const slotOf = (node, name) => node.inputs?.findIndex(input => input.name === name) ?? -1;

export function isLinked(node, name) {
  const slot = slotOf(node, name);
  return Boolean(node.graph) && slot >= 0 && node.isInputConnected(slot);
}

/**
 * The value that an input has from a widget of the subgraph node around it, where that is where it comes from.
 * Undefined for any other input, and where several nodes hold this subgraph and differ.
 */
export function promotedValue(node, name) {
  const id = node.inputs?.find(input => input.name === name)?.link, graph = node.graph;
  const link = id == null ? null : graph?.getLink?.(id) ?? graph?.links?.get?.(id);
  const root = graph?.rootGraph;
  if (!link || Number(link.origin_id) !== SUBGRAPH_INPUTS || !root) return undefined;
  const holders = [root, ...root.subgraphs.values()].flatMap(each => each._nodes).filter(each => each.subgraph === graph);
  const values = holders.map(holder => {
    const slot = holder.inputs[link.origin_slot];
    if (!slot || slot.link != null) return undefined;
    return (holder.getWidgetFromSlot?.(slot) ?? widgetNamed(holder, slot.widget?.name ?? slot.name))?.value;
  });
  return new Set(values).size === 1 ? values[0] : undefined;
}

/** What a widget counts as in a run: its own value, or that of the widget that it is promoted to. */
export const valueOf = (node, name) => promotedValue(node, name) ?? widgetNamed(node, name)?.value;

/** Names of all linked inputs: one pass, since reading a slot is slow in newer front ends. */
export function linkedInputs(node) {
  const inputs = node.graph ? node.inputs ?? [] : [];
  return new Set(inputs.filter((_, slot) => node.isInputConnected(slot)).map(input => input.name));
}

/** `f` once, after the code that is running, however often the returned function is called meanwhile. */
export function coalesced(f) {
  let isDue = false;
  return () => {
    if (isDue) return;
    isDue = true;
    queueMicrotask(() => { isDue = false; f(); });
  };
}

/** Hide a widget in both renderers; its value stays in the file and in the prompt. */
export function hide(widget) {
  widget.hidden = true;
  widget.options.hidden = true;
  widget.options.advanced = false; // else Nodes 2.0 keeps an empty "advanced" footer
}

/** Give a visible widget a value; its callback is what makes Nodes 2.0 show it. */
export function setValue(app, node, widget, value) {
  if (widget.value === value) return;
  widget.value = value;
  widget.callback?.(value, app.canvas, node);
}

const whileLinked = new WeakMap(); // widget -> text that Nodes 2.0 of 1.35.9 draws in place of its value

/** Have a linked text widget draw what the link brings: 1.35.9's Nodes 2.0 goes on drawing the value that is not used. */
export function showWhileLinked(widget, text) {
  if (!globalThis.LiteGraph?.vueNodesMode || (whileLinked.get(widget) ?? widget.value) === text) return;
  whileLinked.set(widget, text);
  const saved = widget.value;
  widget.callback?.(text);
  widget.value = saved;
}

export const MARGIN = 6; // px around an element in a node

/** Put an element into the node, as its last widget: 1.35.9 misplaces saved values behind one that is not saved. */
export function addElement(node, name, element, minHeight, maxHeight) {
  const margin = MARGIN;
  const least = () => minHeight + widget.extra, most = () => maxHeight + widget.extra;
  const fit = () => Object.assign(element.style, {
    minHeight: `${least()}px`, maxHeight: `${most()}px`, display: most() ? "" : "none",
  });
  const widget = node.addDOMWidget(name, "WAN_ACTIVATION_EDITOR", element, {
    serialize: false, // not in the API prompt
    hideInPanel: true,
    margin,
    getMinHeight: () => (widget?.extra === undefined || !most() ? minHeight && minHeight + 2 * margin : least() + 2 * margin),
    getMaxHeight: () => (widget?.extra === undefined || !most() ? maxHeight && maxHeight + 2 * margin : most() + 2 * margin),
  });
  widget.serialize = false; // not in widgets_values
  widget.extra = 0; // px for what is shown under the element's own content
  widget.grow = extra => {
    widget.extra = extra;
    fit();
  };
  fit();
  chain(node, "onConfigure", () => keepMounted(node, name, element));
  return widget;
}

const mounted = new Map(); // graph, node and widget -> the element that was made for them last

/** Put an element in the place of the one of the same node before an undo, where Nodes 2.0 leaves that in the page. */
function keepMounted(node, name, element) {
  let frames = 10;
  const look = () => {
    const key = `${node.graph?.id} ${node.id} ${name}`, before = mounted.get(key)?.deref();
    if (!element.isConnected && before?.isConnected) before.replaceWith(element);
    if (element.isConnected || !frames--) mounted.set(key, new WeakRef(element));
    else requestAnimationFrame(look);
  };
  requestAnimationFrame(look);
}

/** Make the undo history take a step for an edit that was made from script. */
export function markChanged(app) {
  const tracker = app.extensionManager?.workflow?.activeWorkflow?.changeTracker;
  (tracker?.captureCanvasState ?? tracker?.checkState)?.call(tracker); // renamed in newer front ends
}

/** Nodes that the first output leads to. */
export function targetsOf(node) {
  return (node.graph && node.getOutputNodes(0)) ?? [];
}

/** The node that an input comes from; null when it is not linked or comes from outside of the graph. */
export function originOf(node, name) {
  return isLinked(node, name) ? node.getInputNode(slotOf(node, name)) : null;
}

/** The node with an execution id: `12`, or `3:12` for node 12 in the subgraph node 3. */
export function nodeByExecutionId(graph, id) {
  const [first, ...rest] = String(id).split(":");
  const node = graph?.getNodeById(Number(first)) ?? graph?.getNodeById(first) ?? null;
  return rest.length ? nodeByExecutionId(node?.subgraph, rest.join(":")) : node;
}
