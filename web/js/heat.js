// Colours and texts of a block map; no DOM.

const SCALE = [[68, 1, 84], [59, 82, 139], [33, 145, 140], [94, 201, 98], [253, 231, 37]]; // viridis, as patching/plot.py

/** Colour of a value: dark violet at 0 to yellow at the map's largest, red below 0, nothing where it was not measured. */
export function heat(value, { values }) {
  if (value == null) return "transparent";
  const top = Math.max(...values.flat().filter(v => v != null), 1e-9);
  if (value < -0.02 * top) return "rgb(196, 78, 82)";
  const position = Math.min(Math.max(value / top, 0), 1) * (SCALE.length - 1);
  const low = Math.min(Math.floor(position), SCALE.length - 2);
  const mixed = SCALE[low].map((c, i) => Math.round(c + (position - low) * (SCALE[low + 1][i] - c)));
  return `rgb(${mixed.join(", ")})`;
}

/** What a cell says: block, noise level, value, and the interval where there is one. */
export function columnTitle({ quantity, levels, values, low, high }, level, block) {
  const value = values[level][block];
  const at = `Block ${block}, noise ${levels[level].toFixed(2)}`;
  if (value == null) return `${at}: not measured`;
  const ends = low?.[level]?.[block] == null ? "" : ` (${low[level][block].toFixed(3)} to ${high[level][block].toFixed(3)})`;
  return `${at}: ${quantity} ${value.toFixed(3)}${ends}`;
}

/** A choice of blocks as block_activations text: `2-4, 7`. */
export function selectionText(chosen) {
  const sorted = [...chosen].sort((a, b) => a - b);
  const parts = [];
  for (let i = 0; i < sorted.length; i++) {
    const first = sorted[i];
    while (sorted[i + 1] === sorted[i] + 1) i++;
    parts.push(sorted[i] === first ? `${first}` : `${first}-${sorted[i]}`);
  }
  return parts.join(", ");
}
