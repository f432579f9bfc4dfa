// What a bypassed node hands on. The front end prefers the input with the number of the output, which is wrong where the
// first input is there to be compared with; while the node is bypassed, that input counts as one of another type.

import { chain } from "./widgets.js";

const COMPARED_WITH = { WanVideoEmbeddingAmplifier: "main_embeds" };
const BYPASSED = 4;

export function correctBypass(node) {
  const name = COMPARED_WITH[node.constructor.nodeData.name];
  if (!name) return;
  const types = new WeakMap(); // slot -> its type
  const watch = () => {
    const slot = node.inputs?.find(input => input.name === name);
    if (!slot || types.has(slot)) return;
    types.set(slot, slot.type);
    Object.defineProperty(slot, "type", {
      configurable: true,
      enumerable: true,
      get: () => (node.mode === BYPASSED ? "WAN_AE_NOT_HANDED_ON" : types.get(slot)),
      set: type => { types.set(slot, type); },
    });
  };
  watch();
  chain(node, "onConfigure", watch);
  chain(node, "onSerialize", saved => {
    const slot = node.inputs?.find(input => input.name === name), copy = saved.inputs?.find(input => input.name === name);
    if (copy && types.has(slot)) copy.type = types.get(slot);
  });
}
