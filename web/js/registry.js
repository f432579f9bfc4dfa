// What nodes of this pack ask of each other across a link.

/** node -> { refresh(), selection?() => text, strengths?(count) => number[] }; undefined results: a link decides. */
export const builders = new WeakMap();

/** node -> { blocks: number | null, refresh(), receive(message) } */
export const editors = new WeakMap();

/** The largest block count that the last runs of these nodes told; null unless every one of them did. */
export function knownBlockCount(nodes) {
  const known = nodes.map(node => editors.get(node)?.blocks ?? null);
  return known.length && !known.includes(null) ? Math.max(...known) : null;
}
