// What a node that edits blocks shows: a grid that writes block_activations, a line, and the strength of every block:
// as planned, as the last run resolved it, or as measured while sampling.

import { figure, makeChart } from "./chart.js";
import { makeGrid } from "./grid.js";
import { forgetIfRewired, learn, recall } from "./knowledge.js";
import { addPanel } from "./panel.js";
import { BLOCK_COUNT, PRESETS } from "./patterns.js";
import { planOf } from "./plan.js";
import { editors } from "./registry.js";
import { hundredths, writeSelection } from "./selection.js";
import { make } from "./surface.js";
import { chain, coalesced, markChanged, setValue, showWhileLinked, widgetNamed } from "./widgets.js";
import { say } from "./words.js";

export const EVENT = "wan_activation_editor.status";
const CELLS = 50; // as many blocks as a grid can show; those that the model does not have are left out or dimmed
const CHOICE = "block_activations";
const NAMES = [...PRESETS, "even", "odd"];

/** Whether a node edits the blocks that its block_activations widget names. */
export function editsBlocks(node) {
  return Boolean(widgetNamed(node, CHOICE)) && node.outputs?.some(output => output.name === "model");
}

/** Give an editing node its grid, line and picture. `onBlocks` is called when the model's block count became known or unknown. */
export function addBlocks(app, node, onBlocks) {
  const choice = widgetNamed(node, CHOICE);
  const menu = make("select", "", { "aria-label": say("Preset") }, make("option", "", { value: "" }, say("custom")),
    ...NAMES.map(name => make("option", "", { value: name }, name)));
  const line = make("div", "wan-ae-line", { role: "status", "aria-live": "off" }); // a step is no news to interrupt for
  const picture = makeChart();
  let keepMessage = false;
  let message = null; // of the run that samples or has sampled
  let plan = planOf(node);

  const write = text => {
    setValue(app, node, choice, text);
    changed();
  };
  const view = makeGrid({
    app,
    count: CELLS,
    menu,
    read: () => ({
      values: Array.from({ length: CELLS }, (_, i) => plan.chosen?.[i] ?? 0),
      isLinked: () => false,
      blocks: plan.isKnown ? plan.count : null,
      locked: plan.isLinked ? "set by a link" : "",
      drawn: Math.max(plan.count, BLOCK_COUNT),
    }),
    write: next => {
      const count = Math.max(plan.count, plan.isKnown ? 0 : BLOCK_COUNT);
      write(writeSelection(next.slice(0, count).map(hundredths)));
      plan = planOf(node);
    },
    commit: () => markChanged(app),
    save: () => choice.value,
    restore: write,
  });
  menu.addEventListener("change", () => {
    write(menu.value || writeSelection(plan.strengths?.map(v => Number(v > 0)) ?? []));
    markChanged(app);
  });
  menu.addEventListener("keydown", e => e.stopPropagation());
  view.element.append(line, picture.element);

  const draw = coalesced(() => {
    plan = planOf(node);
    view.refresh();
    const named = (plan.selection ?? "").trim().toLowerCase();
    menu.value = NAMES.includes(named) ? named : "";
    keepMessage = true;
    showWhileLinked(choice, plan.isLinked ? plan.selection ?? "" : choice.value);
    keepMessage = false;
    const { text: english, isWarning = false, title } = message ? textOf(message) : plan;
    const text = say(english);
    if (line.textContent !== text) line.textContent = text;
    line.title = title ? say(title) : text;
    line.classList.toggle("warning", isWarning);
    const measured = message?.step > 0 && message.change != null ? message.changes?.map(c => c ?? 0) : null;
    if (measured) picture.draw(measured, "Change");
    else picture.draw(plan.strengths ?? new Array(plan.count).fill(0), "Strength", 1);
  });
  const changed = () => {
    if (keepMessage) return;
    message = null;
    draw();
  };
  const learned = () => {
    draw();
    onBlocks(node);
  };

  editors.set(node, {
    refresh: changed,
    learned,
    receive: detail => {
      message = detail;
      learn(app, node, { blocks: detail.blocks });
      learned();
    },
  });
  const { widget } = addPanel(app, node, { name: "blocks", element: view.element, height: [172, 260], writes: choice });
  for (const each of node.widgets) if (each !== widget) chain(each, "callback", changed);
  const checkModel = coalesced(() => { if (forgetIfRewired(node)) learned(); });
  chain(node, "onConnectionsChange", () => {
    checkModel();
    changed();
  });
  chain(node, "onConfigure", () => {
    recall(node);
    changed();
    onBlocks(node);
  });
  draw();
}

/** A message's line; see patching's Observer. */
function textOf({ phase, step, active, blocks, change }) {
  if (step === 0)
    return { text: phase === "end" ? "The edit did not act in this run: see its window and branch" : "Stopped before the edit acted", isWarning: true };
  const figures = [`${active} of ${blocks} blocks`, ...(change == null ? [] : [`output change ${figure(change)}`])];
  if (phase === "step") return { text: [`Step ${step}`, ...figures].join(", ") };
  const steps = `${step} ${step === 1 ? "step" : "steps"}`;
  const text = [phase === "end" ? steps : `Stopped after ${steps}`, ...figures].join(", ");
  return { text, title: change == null ? text : `${text}. Relative L2 change of the model's output by all edits.` };
}
