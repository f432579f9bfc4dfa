// A grid of cells, one per block, that is painted with the pointer, the keyboard or a finger.

import { cellsBetween, moved, range, withValue } from "./selection.js";
import { isShortcut, make, makeSurface, onStroke } from "./surface.js";
import { coalesced } from "./widgets.js";
import { say } from "./words.js";

const COLUMNS = 10;

/**
 * @param app the front end's app
 * @param count number of cells
 * @param menu an element beside the buttons, if any
 * @param read () => ({ values: (boolean | number)[], isLinked: i => boolean, blocks: number | null, locked: string, drawn?: number })
 *   A number is a strength. blocks is the model's block count where it is known; locked says why nothing can be edited, or
 *   is empty; drawn is how many of the cells are shown.
 * @param write called with the new values while they change
 * @param commit called once at the end of an edit
 * @param save, restore () => what the node holds, and back; for a stroke that is taken back
 * @returns {{ element: HTMLElement, refresh: () => void }}
 */
export function makeGrid({ app, count, menu, read, write, commit, save, restore }) {
  const root = makeSurface(app);
  const grid = make("div", "wan-ae-grid", { role: "grid", "aria-label": say("Active blocks"), "aria-multiselectable": "true" });
  const note = make("span", "wan-ae-note");
  const cells = Array.from({ length: count }, (_, i) => make("div", "wan-ae-cell", { role: "gridcell", tabindex: "-1", "data-block": i }, String(i)));
  for (let first = 0; first < count; first += COLUMNS)
    grid.append(make("div", "wan-ae-row", { role: "row" }, ...cells.slice(first, first + COLUMNS)));
  const tools = make("div", "wan-ae-tools", { role: "toolbar", "aria-label": "All blocks" });
  const button = (text, label, change) => {
    const element = make("button", "", { type: "button", "aria-label": say(label) }, say(text));
    element.addEventListener("click", () => edit(change(read().values)));
    element.addEventListener("keydown", e => { if (e.key === " " || e.key === "Enter") e.stopPropagation(); });
    return element;
  };
  tools.append(
    button("All", "Select all blocks", values => values.map(() => true)),
    button("None", "Select no block", values => values.map(() => false)),
    button("Invert", "Invert the selection", values => values.map(on => !on)),
    note,
  );
  if (menu) tools.prepend(menu);
  root.append(tools, grid);

  let current = 0; // the cell that Tab leads to
  let anchor = 0; // where a range begins
  let before = null; // values before the edit that ranges start from
  let written = null; // values as the grid left them
  let stroke = null;

  const refresh = coalesced(() => {
    const { values, isLinked, blocks, locked, drawn = count } = read();
    cells.forEach((cell, i) => {
      const on = String(Boolean(values[i])), linked = isLinked(i), beyond = blocks !== null && i >= blocks;
      const part = Number(values[i] ?? 0), strength = part > 0 && part < 1 ? String(part) : "";
      if (cell.hidden !== i >= drawn) cell.hidden = i >= drawn;
      if (cell.style.getPropertyValue("--strength") !== strength) cell.style.setProperty("--strength", strength);
      if (cell.getAttribute("aria-selected") !== on) cell.setAttribute("aria-selected", on);
      cell.classList.toggle("linked", linked);
      cell.classList.toggle("wan-ae-beyond", beyond);
      const title = `Block ${i}` + (linked ? ": set by its input" : beyond ? `: the model has ${blocks} blocks` : strength && `: strength ${strength}`);
      if (cell.dataset.title !== title) { cell.dataset.title = title; cell.title = say(title); cell.setAttribute("aria-label", cell.title); }
      const tab = i === current ? 0 : -1;
      if (cell.tabIndex !== tab) cell.tabIndex = tab;
    });
    grid.setAttribute("aria-disabled", String(Boolean(locked)));
    const total = blocks ?? drawn, counted = `${values.slice(0, total).filter(Boolean).length} of ${total} active`; // titles are cut
    const text = say(locked || (!menu ? counted : total !== drawn ? `model has ${total} blocks` : ""));
    if (note.textContent !== text) note.textContent = note.title = text;
    for (const control of tools.querySelectorAll("button, select"))
      if (control.disabled !== Boolean(locked)) control.disabled = Boolean(locked);
  });

  /** Write what differs; linked cells keep their value, and blocks that the model does not have can only be left out. */
  function paint(values) {
    const { values: now, isLinked, blocks, locked } = read();
    const isOpen = i => blocks === null || i < blocks || now[i];
    const next = values.map((on, i) => (isLinked(i) ? now[i] : isOpen(i) ? on : 0));
    if (!locked && next.some((on, i) => Number(on) !== Number(now[i]))) write(next);
    written = read().values;
    refresh();
  }

  function edit(values) {
    before = null;
    paint(values);
    commit();
  }

  function selectRange(to) {
    const { values } = read();
    if (!before || values.some((on, i) => Number(on) !== Number(written?.[i]))) before = values; // or something else changed them
    paint(withValue(before, range(anchor, to), Boolean(before[anchor])));
  }

  function focus(i) {
    current = i;
    cells[i].focus({ preventScroll: true });
  }

  const cellAt = e => {
    const cell = document.elementFromPoint(e.clientX, e.clientY)?.closest?.(".wan-ae-cell");
    return cell && grid.contains(cell) ? Number(cell.dataset.block) : -1;
  };

  onStroke(grid, {
    start(e) {
      const i = cellAt(e);
      if (i < 0) return false;
      const { values } = read();
      stroke = { value: !values[i], last: i, saved: save(), isRange: e.shiftKey };
      if (e.shiftKey) selectRange(i);
      else {
        anchor = i;
        before = null;
        paint(withValue(values, [i], stroke.value));
      }
      focus(i);
    },
    move(e) {
      const i = cellAt(e);
      if (i < 0 || i === stroke.last) return;
      if (stroke.isRange) selectRange(i);
      else paint(withValue(read().values, cellsBetween(stroke.last, i, COLUMNS), stroke.value));
      stroke.last = current = i;
      refresh();
    },
    end: commit,
    cancel() {
      restore(stroke.saved);
      before = null;
      refresh();
    },
  });

  grid.addEventListener("keydown", e => {
    if (isShortcut(e)) return;
    const to = moved(e.key, current, count, COLUMNS);
    if (to !== undefined) {
      if (e.shiftKey) {
        selectRange(to);
        commit();
      } else {
        anchor = to;
        before = null;
      }
      focus(to);
      refresh();
    } else if (e.key === " " || e.key === "Enter") {
      anchor = current;
      edit(withValue(read().values, [current], !read().values[current]));
    } else if (e.key === "Escape") document.activeElement.blur();
    else return;
    e.preventDefault();
    e.stopPropagation();
  });

  return { element: root, refresh };
}
