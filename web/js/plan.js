// Which blocks an editing node acts on, and how strongly: what its widgets say, and the builders that are linked to it.

import { known } from "./knowledge.js";
import { BLOCK_COUNT } from "./patterns.js";
import { builders } from "./registry.js";
import { SelectionError, isBlank, parseSelection, resolveSelection } from "./selection.js";
import { isLinked, originOf, promotedValue, valueOf, widgetNamed } from "./widgets.js";

const MUTED = 2, OFF = [MUTED, 4]; // modes of muted and bypassed nodes

/**
 * @returns {{ count: number, isKnown: boolean, selection?: string, isLinked: boolean, chosen: number[] | null,
 *   strengths: number[] | null, text: string, isWarning?: boolean }}
 *   count of blocks, which the last run told where isKnown; chosen: strength of the selection per block; strengths: what
 *   the edit has per block; null where a link decides and no run has told; text: a line for the user.
 */
export function planOf(node) {
  const told = known(node), isKnown = told !== null, count = told?.blocks ?? BLOCK_COUNT;
  const value = name => valueOf(node, name);
  const comesFromLink = name => isLinked(node, name) && !OFF.includes(originOf(node, name)?.mode);
  const linked = comesFromLink("block_activations"), promoted = promotedValue(node, "block_activations");
  const selection = linked && promoted === undefined
    ? builders.get(originOf(node, "block_activations"))?.selection?.() : String(value("block_activations") ?? "");
  const plan = { count, isKnown, selection, isLinked: linked, chosen: null, strengths: null };
  if (originOf(node, "block_activations")?.mode === MUTED) // older front ends refuse the run, newer ones use the text
    return { ...plan, text: "block_activations is linked to a muted node: unmute it, or remove the link", isWarning: true };
  const hasStrengths = comesFromLink("block_strengths");
  const perBlock = hasStrengths
    ? builders.get(originOf(node, "block_strengths"))?.strengths?.(count) : new Array(count).fill(1);
  if (selection === undefined) {
    const last = told?.strengths ?? null;
    return { ...plan, chosen: last && last.map(v => Number(v > 0)), ...decidedByLink(last, count) };
  }
  const isOff = value("enable_patching") === false, off = { text: "Patching is off", strengths: new Array(count).fill(0) };
  let terms;
  try {
    terms = parseSelection(selection);
    plan.chosen = resolveSelection(terms, count);
  } catch (error) {
    if (!(error instanceof SelectionError)) throw error;
    if (terms && isOff) return { ...plan, ...off };
    // The model may have more blocks than are drawn before its first run.
    return terms && !isKnown
      ? { ...plan, text: `Selects blocks after ${count - 1}` }
      : { ...plan, text: `block_activations: ${error.message}`, isWarning: true };
  }
  if (isOff) return { ...plan, ...off };
  if (perBlock === undefined) {
    const kept = plan.chosen.filter(v => v > 0).length, linked = decidedByLink(told?.strengths ?? null, count);
    if (isBlank(terms) || kept === count) return { ...plan, ...linked };
    return { ...plan, ...linked, text: `${linked.text}; block_activations leaves out all but ${kept}` };
  }
  const beyond = isKnown ? perBlock.findIndex((v, i) => i >= count && v > 0) : -1;
  if (beyond >= 0) return { ...plan, text: `Block ${beyond} is selected, but the model has ${count} blocks`, isWarning: true };
  const mask = hasStrengths && isBlank(terms) ? new Array(count).fill(1) : plan.chosen;
  const factor = factorOf(node, hasStrengths);
  const strengths = mask.map((v, i) => v * (perBlock[i] ?? 0) * factor), active = strengths.filter(v => v > 0).length;
  if (!active) return { ...plan, text: "No block selected: the model passes unchanged", strengths, isWarning: true };
  const cut = hasStrengths ? mask.filter((v, i) => v === 0 && perBlock[i] > 0).length : 0;
  const text = `${active} of ${count} blocks selected` + (cut ? `; block_activations leaves out ${cut} of block_strengths` : "");
  return { ...plan, text, strengths };
}

function decidedByLink(strengths, count) {
  if (!strengths) return { text: "Blocks come from a link" };
  return { text: `Blocks come from a link: ${strengths.filter(v => v > 0).length} of ${count} in the last run`, strengths };
}

/** What the strengths are multiplied by; 1 where a link says it. */
function factorOf(node, hasStrengths) {
  const name = ["injection_strength", ...(hasStrengths ? [] : ["uniform_strength"])].find(each => widgetNamed(node, each));
  const isDecidedByLink = name && isLinked(node, name) && promotedValue(node, name) === undefined;
  return !name || isDecidedByLink ? 1 : Number(valueOf(node, name) ?? 1);
}
