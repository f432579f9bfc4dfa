// Block selections: the grammar of patching/selection.py, and the range logic of the grid and the bars. No DOM.

import { PRESETS, presetBlocks } from "./patterns.js";

/** A selection that cannot be read or does not fit the model; the message says where and what is allowed. */
export class SelectionError extends Error {}

const NUMBER = "(0|[1-9][0-9]{0,5})";
const BITS = /^[01]{3,}$/, INDEX = new RegExp(`^${NUMBER}$`), RANGE = new RegExp(`^${NUMBER}-${NUMBER}$`);
const EVERY = new RegExp(`^/${NUMBER}$`), STRENGTH = /^([0-9]+(\.[0-9]+)?|\.[0-9]+)(e-?[0-9]+)?$/;
const MAX_LENGTH = 4000;
const NAMES = ["even", "odd", ...PRESETS];

/** Parse `7, 3-9, even, /4, !12, early_blocks:0.6` or a string of 0 and 1 into terms. Throws SelectionError. */
export function parseSelection(text) {
  if (text.length > MAX_LENGTH) throw new SelectionError(`has ${text.length} characters, but at most ${MAX_LENGTH} are read`);
  return [...text.matchAll(/[^\s,]+/g)].map(m => parseTerm(m[0].toLowerCase(), m.index + 1));
}

function parseTerm(token, position) {
  const fail = why => new SelectionError(`position ${position}: "${token}" ${why}`);
  const colon = token.indexOf(":");
  let blocks = colon < 0 ? token : token.slice(0, colon);
  const exclude = blocks.startsWith("!");
  if (exclude) blocks = blocks.slice(1);
  let strength = 1;
  if (colon >= 0) {
    const written = token.slice(colon + 1);
    if (exclude) throw fail("excludes blocks, so it takes no strength");
    if (!STRENGTH.test(written)) throw fail("has no readable strength after ':'");
    strength = Number(written);
    if (!(strength >= 0 && strength <= 1)) throw fail("has a strength outside 0 to 1");
  }
  const range = RANGE.exec(blocks), every = EVERY.exec(blocks);
  if (range && Number(range[1]) > Number(range[2])) throw fail(`runs backwards; write ${range[2]}-${range[1]}`);
  if (every && Number(every[1]) === 0) throw fail("steps by 0; write /2 for every second block");
  if (!(range || every || BITS.test(blocks) || INDEX.test(blocks) || NAMES.includes(blocks)))
    throw fail("is no block (7), range (3-9), step (/4), exclusion (!12), preset, or string of 0 and 1");
  return { blocks, strength, exclude };
}

/** Blocks of one term, as indices. Throws SelectionError for a block that a model of `count` blocks does not have. */
function indices({ blocks }, count) {
  const within = i => {
    if (i >= count) throw new SelectionError(`block ${i} is selected, but the model has ${count} blocks (0 to ${count - 1})`);
    return i;
  };
  const where = member => range(0, count - 1).filter(member);
  if (BITS.test(blocks)) return [...blocks].flatMap((bit, i) => (bit === "1" ? [within(i)] : []));
  if (blocks === "even" || blocks === "odd") return where(i => i % 2 === Number(blocks === "odd"));
  const preset = presetBlocks(blocks, count);
  if (preset) return where(i => preset[i]);
  const every = EVERY.exec(blocks);
  if (every) return where(i => i % Number(every[1]) === 0);
  const [first, last = first] = blocks.split("-").map(Number);
  within(first);
  return range(first, within(last));
}

/** Strengths of blocks 0..count-1: later terms win, exclusions apply last, exclusions alone start from all blocks. */
export function resolveSelection(terms, count) {
  const out = new Array(count).fill(terms.length > 0 && terms.every(t => t.exclude) ? 1 : 0);
  for (const term of [...terms.filter(t => !t.exclude), ...terms.filter(t => t.exclude)])
    for (const i of indices(term, count)) out[i] = term.exclude ? 0 : term.strength;
  return out;
}

/** Text for strengths of blocks 0..n-1: a preset's name where one says the same, else ranges with their strengths. */
export function writeSelection(strengths) {
  const count = strengths.length;
  const preset = PRESETS.find(name => presetBlocks(name, count).every((on, i) => Number(on) === strengths[i]));
  if (preset) return preset;
  const terms = [];
  for (let first = 0, end; first < count; first = end) {
    for (end = first + 1; end < count && strengths[end] === strengths[first]; ) end++;
    const blocks = end - 1 > first ? `${first}-${end - 1}` : `${first}`;
    if (strengths[first] > 0) terms.push(strengths[first] === 1 ? blocks : `${blocks}:${strengths[first]}`);
  }
  return terms.join(", ");
}

/** True for what an untouched widget holds: nothing, or strings of zeros. */
export function isBlank(terms) {
  return terms.every(t => BITS.test(t.blocks) && !t.blocks.includes("1") && !t.exclude);
}

/** The integers from a to b, both included, rising. */
export function range(a, b) {
  const low = Math.min(a, b);
  return Array.from({ length: Math.abs(a - b) + 1 }, (_, k) => low + k);
}

/** Cells that a pointer crossed on its way between two cells of a grid: no gap, however fast it moved. */
export function cellsBetween(from, to, columns) {
  const column = i => i % columns, row = i => Math.floor(i / columns);
  const steps = Math.max(Math.abs(column(to) - column(from)), Math.abs(row(to) - row(from)));
  const along = (a, b, k) => Math.round(a + ((b - a) * k) / steps);
  return Array.from({ length: steps }, (_, k) =>
    along(row(from), row(to), k + 1) * columns + along(column(from), column(to), k + 1));
}

/** Values of the bars that a pointer crossed on its way from bar a (value u) to bar b (value v), on a straight line. */
export function ramp(a, u, b, v) {
  return range(a, b).map(i => [i, a === b ? v : u + ((v - u) * (i - a)) / (b - a)]);
}

/** A copy of `values` in which the given indices hold `value`; locked ones keep theirs. */
export function withValue(values, at, value, isLocked = () => false) {
  const out = [...values];
  for (const i of at) if (!isLocked(i)) out[i] = value;
  return out;
}

/** Where an arrow, Home or End key leads from cell `at` of `count` in rows of `columns`; undefined for another key. */
export function moved(key, at, count, columns) {
  const step = { ArrowLeft: -1, ArrowRight: 1, ArrowUp: -columns, ArrowDown: columns }[key];
  if (key === "Home") return 0;
  if (key === "End") return count - 1;
  if (step === undefined) return undefined;
  const to = at + step;
  return to < 0 || to >= count ? at : to;
}

/** A strength as the widgets hold it: 0 to 1 in hundredths. */
export function hundredths(value) {
  return Math.round(Math.min(Math.max(Number(value) || 0, 0), 1) * 100) / 100;
}
