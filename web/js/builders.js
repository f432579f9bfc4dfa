// The two builder nodes: a choice (preset or pattern), forty hidden widgets, and a picture that edits them.
//
// What is shown: the named preset or pattern, else the forty values; as in Python. Loading a file writes nothing, except
// where the file holds the choice alone. An edit in the picture writes all forty and sets the choice to custom.

import { makeBars } from "./bars.js";
import { makeGrid } from "./grid.js";
import { addPanel } from "./panel.js";
import { BLOCK_COUNT, patternStrengths, presetBlocks } from "./patterns.js";
import { builders, editors, knownBlockCount } from "./registry.js";
import { addRowSocket, completeSockets } from "./rows.js";
import { hundredths, range } from "./selection.js";
import { chain, coalesced, hide, linkedInputs, markChanged, promotedValue, setValue, targetsOf, valueOf, watch, widgetNamed } from "./widgets.js";
import { say } from "./words.js";

const CUSTOM = "custom";
const BLOCKS = range(0, BLOCK_COUNT - 1);
const ROWS_HEIGHT = BLOCK_COUNT * 20; // px; forty visible widgets take at least this
const COUNT_IN_TITLE = / ?(\(\d{1,3} active\)|（已启用 \d{1,3} 块）)$/;

export const BUILDERS = {
  WanVideoBlockActivationBuilder: activationBuilder,
  WanVideoBlockStrengthBuilder: strengthBuilder,
};

function activationBuilder(app, node) {
  build(app, node, {
    choice: "preset",
    rows: BLOCKS.map(i => `block_${i}`),
    curve: (name, count) => presetBlocks(name, count),
    valueOf: widget => Boolean(widget.value),
    toRow: Boolean,
    makeView: makeGrid,
    height: [106, 190],
    title: (values, own) => `${own}${say(` (${values.filter(Boolean).length} active)`)}`,
    output: (name, values) => ({ selection: () => (name() === CUSTOM ? values()?.map(on => (on ? "1" : "0")).join("") : values() && name()) }),
  });
}

function strengthBuilder(app, node) {
  const parameter = name => valueOf(node, name);
  build(app, node, {
    choice: "pattern",
    rows: BLOCKS.map(i => `block_${i}_strength`),
    parameters: ["base_strength", "peak_block", "spread", "step_size", "seed"],
    curve: (name, count) => patternStrengths(name, count, {
      base: parameter("base_strength"), peak: parameter("peak_block"), spread: parameter("spread"),
      step: parameter("step_size"), seed: parameter("seed"),
    }),
    valueOf: widget => Math.min(Math.max(Number(widget.value) || 0, 0), 1),
    toRow: hundredths,
    makeView: makeBars,
    height: [120, 220],
    output: (name, values) => ({ strengths: values }),
  });
}

/** Take away the room for forty rows that a node was saved with. */
function shrink(node) {
  if (node.size[1] <= ROWS_HEIGHT) return;
  const height = node.computeSize()[1];
  if (node.size[1] > height + ROWS_HEIGHT) node.setSize([node.size[0], height]);
}

/**
 * @param spec.choice name of the combo; spec.rows names of the forty widgets; spec.parameters of those that shape a curve
 * @param spec.curve (name, count) => values, or null for custom
 * @param spec.valueOf, spec.toRow between a row's widget and a value of the picture
 * @param spec.output what registry.js holds of the node, from its choice and its values
 */
function build(app, node, spec) {
  const choice = widgetNamed(node, spec.choice), rows = spec.rows.map(name => widgetNamed(node, name));
  if (!choice || rows.includes(undefined)) return;
  const given = [choice, ...(spec.parameters ?? []).map(name => widgetNamed(node, name)).filter(Boolean)];
  let writing = false;
  let named = null; // the values of a named choice as last shown

  const blocks = () => knownBlockCount(targetsOf(node));
  const chosen = () => valueOf(node, spec.choice);
  const values = (count = BLOCK_COUNT) => spec.curve(chosen(), count) ?? rows.map(spec.valueOf);
  const shown = () => {
    const count = Math.min(blocks() ?? BLOCK_COUNT, BLOCK_COUNT);
    const known = values(count);
    return BLOCKS.map(i => known[i] ?? spec.toRow(0));
  };
  const writeRows = next => rows.forEach((row, i) => { row.value = spec.toRow(next[i]); });
  const isDecidedByLink = () => {
    const linked = linkedInputs(node);
    return given.some(w => linked.has(w.name) && promotedValue(node, w.name) === undefined) || (chosen() === CUSTOM && spec.rows.some(name => linked.has(name)));
  };
  const linkedChoice = linked => given.find(w => linked.has(w.name))?.name;

  const view = spec.makeView({
    app,
    count: BLOCK_COUNT,
    read: () => {
      const linked = linkedInputs(node), from = linkedChoice(linked), isCustom = chosen() === CUSTOM;
      return {
        values: shown(),
        isLinked: i => isCustom && linked.has(spec.rows[i]),
        blocks: blocks(),
        locked: from ? `${from} comes from a link` : "",
      };
    },
    write: next => {
      writing = true;
      writeRows(next);
      setValue(app, node, choice, CUSTOM);
      writing = false;
      changed();
    },
    commit: () => markChanged(app),
    save: () => ({ choice: choice.value, rows: rows.map(row => row.value) }),
    restore: saved => {
      writing = true;
      rows.forEach((row, i) => { row.value = saved.rows[i]; });
      setValue(app, node, choice, saved.choice);
      writing = false;
      changed();
    },
  });

  const redraw = coalesced(() => {
    named = spec.curve(chosen(), BLOCK_COUNT) && shown();
    view.refresh();
    if (spec.title) {
      const own = String(node.title ?? "").replace(COUNT_IN_TITLE, "") || node.constructor.title;
      const title = isDecidedByLink() ? own : spec.title(shown(), own);
      if (node.title !== title) node.title = title;
    }
    node.setDirtyCanvas?.(true, true);
  });
  const changed = () => {
    redraw();
    for (const target of targetsOf(node)) editors.get(target)?.refresh();
  };

  chain(choice, "callback", () => {
    if (writing) return;
    // A named choice is written to the rows; custom starts from what was shown.
    if (spec.curve(choice.value, BLOCK_COUNT)) writeRows(shown());
    else if (named) writeRows(named);
    changed();
  });
  for (const widget of [...given.slice(1), ...rows]) chain(widget, "callback", () => { if (!writing) changed(); });

  for (const row of rows) hide(row);
  node.convertWidgetToInput = widget => addRowSocket(node, widget);
  addPanel(app, node, { name: "blocks", element: view.element, height: spec.height, writes: choice });
  builders.set(node, { refresh: redraw, ...spec.output(chosen, count => (isDecidedByLink() ? undefined : values(count))) });

  chain(node, "onConfigure", info => {
    completeSockets(node);
    const saved = info?.widgets_values;
    for (const row of rows) if (row.value == null) row.value = spec.toRow(0); // which the server would refuse
    if (!Array.isArray(saved) || saved.length <= given.length) {
      const curve = spec.curve(choice.value, BLOCK_COUNT);
      if (curve) writeRows(curve);
    }
    shrink(node);
    changed();
  });
  chain(node, "onConnectionsChange", changed);
  watch(node, "mode", changed);
  chain(node, "onRemoved", () => view.remove?.());
  if (spec.title)
    chain(node, "onSerialize", saved => {
      if (typeof saved.title !== "string") return;
      saved.title = saved.title.replace(COUNT_IN_TITLE, "");
      if (!saved.title || saved.title === node.constructor.title) delete saved.title;
    });
  redraw();
}
