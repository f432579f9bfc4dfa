// A bar per block, 0 to 1, that is drawn with the pointer, the wheel, the keyboard or a finger.

import { hundredths, ramp } from "./selection.js";
import { isShortcut, make, makeSurface, onStroke } from "./surface.js";
import { coalesced } from "./widgets.js";
import { say } from "./words.js";

const FINE = 0.01, COARSE = 0.1;
const CLICK_SLACK = 3; // px that a click may move without becoming a drag
const isPinch = e => e.ctrlKey || e.metaKey; // on a trackpad, as the browser tells it
const WHEEL_PAUSE = 400; // ms after the last turn of the wheel until it counts as one edit

/**
 * @param app the front end's app
 * @param count number of bars
 * @param read () => ({ values: number[], isLinked: i => boolean, blocks: number | null, locked: string }); see grid.js
 * @param write called with the new values, in hundredths, while they change
 * @param commit, save, restore see grid.js
 * @returns {{ element: HTMLElement, refresh: () => void, remove: () => void }}
 */
export function makeBars({ app, count, read, write, commit, save, restore }) {
  // The wheel changes a bar once the bars have the focus; else it zooms the canvas, as over any node.
  const root = makeSurface(app, e => !isPinch(e) && track.contains(e.target) && track.contains(document.activeElement));
  const track = make("div", "wan-ae-bars", { role: "group", "aria-label": "Block strengths" });
  const note = make("span", "wan-ae-note", { style: "text-align: left" });
  const bars = Array.from({ length: count }, (_, i) =>
    make("div", "wan-ae-bar", { role: "slider", tabindex: "-1", "aria-orientation": "vertical", "aria-valuemin": 0, "aria-valuemax": 1,
      "aria-label": `Strength of block ${i}` }, make("i")));
  track.append(...bars);
  const scale = make("div", "wan-ae-scale", { "aria-hidden": "true" });
  for (let i = 0; i < count; i += 10) scale.append(make("span", "", {}, String(i)));
  root.append(make("div", "wan-ae-tools", {}, note), track, scale);

  let current = 0; // the bar that Tab leads to
  let pointed = -1; // the bar that the readout names
  let stroke = null;
  let turning = 0;

  const refresh = coalesced(() => {
    const { values, isLinked, blocks, locked } = read();
    bars.forEach((bar, i) => {
      const value = String(Math.round(values[i] * 1e4) / 1e4);
      if (bar.getAttribute("aria-valuenow") !== value) {
        bar.setAttribute("aria-valuenow", value);
        bar.firstChild.style.height = `${100 * values[i]}%`;
      }
      bar.classList.toggle("linked", isLinked(i));
      bar.classList.toggle("wan-ae-beyond", blocks !== null && i >= blocks);
      const tab = i === current ? 0 : -1;
      if (bar.tabIndex !== tab) bar.tabIndex = tab;
    });
    track.setAttribute("aria-disabled", String(Boolean(locked)));
    const text = say(readout(values, isLinked, locked, blocks ?? count));
    if (note.textContent !== text) note.textContent = text;
  });

  function readout(values, isLinked, locked, total) {
    if (locked) return locked;
    if (pointed >= 0) return `block ${pointed}: ${values[pointed].toFixed(2)}` + (isLinked(pointed) ? ", set by its input" : "");
    const active = values.filter(v => v > 0), low = Math.min(...active), high = Math.max(...active);
    if (!active.length) return "no block active";
    return `${active.length} of ${total} active, ` + (low === high ? high.toFixed(2) : `${low < FINE / 2 ? "below 0.01" : low.toFixed(2)} to ${high.toFixed(2)}`);
  }

  function set(pairs) {
    const { values, isLinked, locked } = read();
    if (!locked) {
      const next = [...values];
      for (const [i, value] of pairs) if (!isLinked(i)) next[i] = hundredths(value);
      if (next.some((value, i) => value !== values[i])) write(next);
    }
    refresh();
  }

  function focus(i) {
    current = i;
    bars[i].focus({ preventScroll: true });
  }

  const barAt = e => {
    const box = track.getBoundingClientRect(), at = Math.floor(((e.clientX - box.left) / box.width) * count);
    return Math.min(Math.max(at, 0), count - 1);
  };
  const valueAt = e => {
    const box = bars[0].getBoundingClientRect();
    return hundredths((box.bottom - e.clientY) / box.height);
  };

  onStroke(track, {
    start(e) {
      const i = barAt(e);
      stroke = { at: i, value: valueAt(e), saved: save(), drew: false, y: e.clientY };
      pointed = i;
      focus(i);
      refresh();
    },
    move(e) {
      const i = barAt(e), value = valueAt(e);
      // A click alone focuses a bar, for the wheel, the keys or a second click; it changes nothing.
      stroke.drew ||= i !== stroke.at || Math.abs(e.clientY - stroke.y) >= CLICK_SLACK;
      if (!stroke.drew) return;
      pointed = current = i;
      set(ramp(stroke.at, stroke.value, i, value));
      Object.assign(stroke, { at: i, value });
    },
    end() {
      if (stroke.drew) commit();
    },
    cancel() {
      if (stroke.drew) restore(stroke.saved);
      refresh();
    },
  });

  track.addEventListener("pointermove", e => {
    if (e.buttons === 0 && pointed !== barAt(e)) { pointed = barAt(e); refresh(); }
  });
  track.addEventListener("pointerleave", () => { pointed = -1; refresh(); });
  track.addEventListener("focusin", () => {
    track.dataset.captureWheel = "true"; // Nodes 2.0 leaves the wheel to elements that say so
    pointed = current;
    refresh();
  });
  track.addEventListener("focusout", () => {
    delete track.dataset.captureWheel;
    commitTurning();
    pointed = -1;
    refresh();
  });

  const commitTurning = () => { if (turning) { clearTimeout(turning); turning = 0; commit(); } };
  track.addEventListener("wheel", e => {
    if (isPinch(e) || !track.contains(document.activeElement) || e.deltaY === 0) return;
    const i = barAt(e);
    pointed = i;
    set([[i, read().values[i] - Math.sign(e.deltaY) * FINE]]);
    clearTimeout(turning);
    turning = setTimeout(commitTurning, WHEEL_PAUSE);
  }, { passive: true });

  track.addEventListener("dblclick", e => type(barAt(e)));
  track.addEventListener("keydown", e => {
    if (isShortcut(e)) return commitTurning(); // so that undo finds it
    const step = e.shiftKey ? COARSE : FINE;
    const change = { ArrowUp: step, ArrowDown: -step, PageUp: COARSE, PageDown: -COARSE, Delete: -1, Backspace: -1 }[e.key];
    const to = { ArrowLeft: Math.max(current - 1, 0), ArrowRight: Math.min(current + 1, count - 1), Home: 0, End: count - 1 }[e.key];
    if (change !== undefined) {
      set([[current, read().values[current] + change]]);
      commit();
    } else if (to !== undefined) {
      pointed = to;
      focus(to);
      refresh();
    } else if (e.key === "Enter") type(current);
    else if (/^[0-9.]$/.test(e.key)) type(current, e.key);
    else if (e.key === "Escape") document.activeElement.blur();
    else return;
    e.preventDefault();
    e.stopPropagation();
  });

  /** Lets a value be typed over bar `i`. */
  function type(i, start) {
    const { values, isLinked, locked } = read();
    if (locked || isLinked(i)) return;
    const input = make("input", "wan-ae-type", { inputmode: "decimal", "aria-label": `Strength of block ${i}, 0 to 1` });
    input.value = start ?? values[i].toFixed(2);
    const left = Math.min(Math.max(bars[i].offsetLeft - 31, 0), root.clientWidth - 62);
    Object.assign(input.style, { left: `${left}px`, top: `${track.offsetTop + 4}px` });
    let open = true;
    const close = keep => {
      if (!open) return;
      open = false;
      const value = Number(input.value.replace(",", "."));
      input.remove();
      if (keep && input.value.trim() !== "" && Number.isFinite(value)) {
        set([[i, value]]);
        commit();
      }
    };
    input.addEventListener("keydown", e => {
      e.stopPropagation();
      if (e.key !== "Enter" && e.key !== "Escape") return;
      close(e.key === "Enter");
      focus(i);
    });
    input.addEventListener("blur", () => close(true));
    root.append(input);
    input.focus({ preventScroll: true });
    if (start === undefined) input.select();
  }

  return { element: root, refresh, remove: () => clearTimeout(turning) };
}
