// The part of a node that this pack draws. It is one DOM widget, there from the beginning: 1.35.9's Nodes 2.0 does not draw
// a widget that is added later. Sections under the node's own picture come and go.

import { makeSurface } from "./surface.js";
import { MARGIN, addElement, chain } from "./widgets.js";

const GAP = 4; // px, as between the parts of a surface
const panels = new WeakMap();

/** The panel of a node: its picture's, or an empty one of no height. Called last, when the node's widgets are there. */
export function addPanel(app, node, picture = null) {
  const element = picture?.element ?? makeSurface(app);
  const widget = addElement(node, picture?.name ?? "panel", element, ...(picture?.height ?? [0, 0]));
  if (picture?.writes) standFor(node, widget, picture.writes);
  if (!picture) widget.options.disabled = true; // an empty panel is offered to no app
  let added = 0; // px that the sections have made the node higher
  const sections = new Map(); // name -> { element, height }
  const panel = {
    widget,
    /** Put a section of a height in px under the picture, in place of the one of that name; null takes it out. */
    show(name, section, height = 0) {
      sections.get(name)?.element.remove();
      sections.delete(name);
      if (section) {
        Object.assign(section.style, { flex: "none", height: `${height}px` });
        element.append(section);
        sections.set(name, { element: section, height });
      }
      const extra = [...sections.values()].reduce((sum, each) => sum + each.height + GAP, 0);
      if (!picture) widget.options.disabled = !extra;
      const room = extra && extra + (picture ? 0 : 2 * MARGIN), change = room - added; // an empty panel has no margin
      if (!change) return;
      added = room;
      widget.grow(extra);
      node.setSize([node.size[0], Math.max(node.size[1] + change, node.computeSize()[1])]);
      node.setDirtyCanvas?.(true, true);
    },
  };
  // A file holds the node as it is without them.
  chain(node, "onSerialize", saved => {
    if (added && saved.size) saved.size = [saved.size[0], saved.size[1] - added];
  });
  panels.set(node, panel);
  return panel;
}

/** Give a picture the input slot of the widget that it writes: 1.58.1 promotes no widget without one to a subgraph. */
function standFor(node, picture, written) {
  const slotFor = node.getSlotFromWidget;
  node.getSlotFromWidget = function (widget) {
    const slot = slotFor.call(this, widget === picture ? written : widget);
    return widget === picture && slot?.link != null ? undefined : slot; // a linked widget would be disabled
  };
}

export const panelOf = node => panels.get(node);
