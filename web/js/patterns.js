// Presets and strength curves: the formulas of patching/strengths.py. tests/vectors/patterns.json holds both to one table.

export const BLOCK_COUNT = 40;

export const PRESETS = [
  "all", "none", "first_half", "second_half", "early_blocks", "mid_blocks", "late_blocks", "alternating", "sparse",
];

export const PATTERNS = [
  "uniform", "linear_decay", "linear_rise", "gaussian_peak", "inverse_gaussian", "sine_wave", "stepped", "random",
  "focus_early", "focus_mid", "focus_late",
];

/** Which of `count` blocks a preset names, as booleans; null for a name that is no preset. */
export function presetBlocks(name, count = BLOCK_COUNT) {
  const quarter = Math.floor(count / 4), half = Math.floor(count / 2);
  const member = {
    all: () => true,
    none: () => false,
    first_half: i => i < half,
    second_half: i => i >= half,
    early_blocks: i => i < quarter,
    mid_blocks: i => i >= quarter && i < count - quarter,
    late_blocks: i => i >= count - quarter,
    alternating: i => i % 2 === 0,
    sparse: i => i % 4 === 0,
  };
  return Object.hasOwn(member, name) ? Array.from({ length: count }, (_, i) => member[name](i)) : null;
}

/** `count` numbers in [0, 1) from mulberry32 (Tommy Ettinger, public domain). */
export function uniformRandom(seed, count) {
  let state = seed >>> 0;
  return Array.from({ length: count }, () => {
    state = (state + 0x6D2B79F5) >>> 0;
    let t = Math.imul(state ^ (state >>> 15), state | 1);
    t ^= t + Math.imul(t ^ (t >>> 7), t | 61);
    return ((t ^ (t >>> 14)) >>> 0) / 4294967296;
  });
}

/**
 * Strengths of a named curve over `count` blocks; null for a name that is no pattern.
 * Defaults are those of the node: base 0..1, peak and spread in blocks, step in blocks.
 */
export function patternStrengths(name, count = BLOCK_COUNT, { base = 0.5, peak = 20, spread = 5, step = 5, seed = 0 } = {}) {
  const last = Math.max(count - 1, 1);
  const over = f => Array.from({ length: count }, (_, i) => f(i));
  const bell = i => Math.exp(-((i - peak) ** 2) / (2 * spread ** 2));
  switch (name) {
    case "uniform": return over(() => base);
    case "linear_decay": return over(i => base * (1 - i / last));
    case "linear_rise": return over(i => base * (i / last));
    case "gaussian_peak": return over(i => base * bell(i));
    case "inverse_gaussian": return over(i => base * (1 - bell(i)));
    case "sine_wave": return over(i => base * (0.5 + 0.5 * Math.sin((2 * Math.PI * i) / count)));
    case "stepped": return over(i => (Math.floor(i / step) % 2 === 0 ? base : 0));
    case "random": return uniformRandom(seed, count).map(u => base * u);
    case "focus_early":
    case "focus_mid":
    case "focus_late":
      return presetBlocks(name.replace("focus_", "") + "_blocks", count).map(inside => (inside ? base : 0.1 * base));
  }
  return null;
}
