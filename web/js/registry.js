// What nodes of this pack ask of each other across a link.

import { known } from "./knowledge.js";

/** node -> { refresh(), selection?() => text, strengths?(count) => number[] }; undefined results: a link decides. */
export const builders = new WeakMap();

/** node -> { refresh(), learned(), receive(message) } of nodes that show the blocks that they edit */
export const editors = new WeakMap();

/** The largest block count that the last runs of those of these nodes that edit blocks told; null unless every one did. */
export function knownBlockCount(nodes) {
  const counts = nodes.filter(node => editors.has(node)).map(node => known(node)?.blocks ?? null);
  return counts.length && !counts.includes(null) ? Math.max(...counts) : null;
}
