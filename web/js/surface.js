// What the DOM widgets share: their style, and how events on them reach the graph canvas underneath.

const STYLE_ID = "wan-activation-editor-style";
const STYLE = `
.wan-ae { box-sizing: border-box; display: flex; flex-direction: column; gap: 4px; width: 100%; height: 100%; position: relative;
  contain: layout style;
  font: 11px/1.2 var(--font-inter, Inter), sans-serif; color: var(--input-text, #ddd); user-select: none; -webkit-user-select: none; }
.wan-ae *, .wan-ae *::before { box-sizing: border-box; }
.wan-ae-tools { display: flex; align-items: center; gap: 4px; flex: none; height: 20px; }
.wan-ae-tools button { font: inherit; color: inherit; background: var(--comfy-input-bg, #222); height: 20px; padding: 0 9px;
  border: 1px solid var(--border-color, #4e4e4e); border-radius: 4px; cursor: pointer; }
.wan-ae-tools select { font: inherit; color: inherit; background: var(--comfy-input-bg, #222); height: 20px; min-width: 0; max-width: 112px;
  padding: 0 2px; border: 1px solid var(--border-color, #4e4e4e); border-radius: 4px; }
.wan-ae-tools :disabled { opacity: 0.5; cursor: not-allowed; }
.wan-ae-tools button:not(:disabled):hover { border-color: var(--input-text, #ddd); }
.wan-ae-note { flex: 1; min-width: 0; text-align: right; color: var(--descrip-text, #999); overflow: hidden; white-space: nowrap;
  text-overflow: ellipsis; font-variant-numeric: tabular-nums; }
.wan-ae :focus-visible { outline: 2px solid var(--input-text, #fff); outline-offset: 1px; }
.wan-ae [aria-disabled="true"] { cursor: not-allowed; }

/* Off the screen, or before it is placed, a picture costs no layout. */
.wan-ae-grid, .wan-ae-bars { content-visibility: auto; }

.wan-ae-grid { flex: 1; min-height: 0; display: grid; grid-template-columns: repeat(10, minmax(0, 1fr)); grid-auto-rows: minmax(18px, 1fr);
  gap: 3px; touch-action: none; font-size: 10px; }
.wan-ae-row { display: contents; }
.wan-ae-cell { display: flex; align-items: center; justify-content: center; border-radius: 3px; cursor: pointer;
  background: var(--comfy-input-bg, #222); color: var(--descrip-text, #999); border: 1px solid var(--border-color, #4e4e4e); }
.wan-ae-cell[aria-selected="true"] { background: var(--wan-ae-on); color: var(--wan-ae-on-text); border-color: var(--wan-ae-on); font-weight: 600; }
.wan-ae-cell[hidden] { display: none; }
.wan-ae-cell[aria-selected="true"][style*="--strength: 0"] { border-color: var(--wan-ae-on);
  background: color-mix(in srgb, var(--wan-ae-on) calc(45% + 55% * var(--strength)), var(--comfy-input-bg, #222)); }
.wan-ae-cell.linked { border-style: dashed; border-color: var(--input-text, #ddd); cursor: not-allowed; }
.wan-ae-beyond { opacity: 0.35; }

.wan-ae-bars { flex: 1; min-height: 0; display: flex; touch-action: none; cursor: ns-resize; border-radius: 4px;
  background: var(--comfy-input-bg, #222); border: 1px solid var(--border-color, #4e4e4e); padding: 0 2px; }
.wan-ae-bar { flex: 1 1 0; min-width: 2px; position: relative; padding: 0 0.5px; display: flex; align-items: flex-end; }
.wan-ae-bar > i { display: block; width: 100%; min-height: 1px; background: var(--wan-ae-on); border-radius: 1px 1px 0 0; }
.wan-ae-bar[aria-valuenow="0"] > i { background: var(--descrip-text, #999); }
.wan-ae-bar:nth-child(10n + 1):not(:first-child)::before { content: ""; position: absolute; left: 0; top: 0; bottom: 0; width: 1px;
  background: var(--border-color, #4e4e4e); }
.wan-ae-bar.linked > i { opacity: 0.5; }
.wan-ae-bar:focus-visible { outline-offset: -1px; background: color-mix(in srgb, var(--input-text, #fff) 25%, transparent); }
.wan-ae-scale { display: flex; flex: none; padding: 0 3px; color: var(--descrip-text, #999); font-size: 9px; line-height: 10px; }
.wan-ae-scale > span { flex: 1 1 0; }
.wan-ae-type { position: absolute; width: 62px; height: 22px; font: inherit; padding: 0 4px; border-radius: 4px; user-select: text;
  -webkit-user-select: text; color: var(--input-text, #ddd); background: var(--comfy-menu-bg, #353535);
  border: 1px solid var(--input-text, #ddd); }

.wan-ae-line { flex: none; height: 14px; line-height: 14px; overflow: hidden; white-space: nowrap; text-overflow: ellipsis;
  color: var(--input-text, #ddd); font-variant-numeric: tabular-nums; }
.wan-ae-line.warning { font-weight: 600; }
.wan-ae-chart { flex: none; height: 50px; display: flex; flex-direction: column; }
.wan-ae-plot { flex: 1; min-height: 0; position: relative; }
.wan-ae-axis { position: absolute; right: 3px; top: 1px; padding: 0 2px; border-radius: 2px; background: var(--comfy-input-bg, #222); font-size: 9px; line-height: 10px; color: var(--descrip-text, #999); pointer-events: none; }
.wan-ae-chart .wan-ae-scale { position: relative; height: 10px; padding: 0; }
.wan-ae-chart .wan-ae-scale > span { position: absolute; }
.wan-ae-picture { display: block; height: 100%; width: 100%; border-radius: 3px; background: var(--comfy-input-bg, #222); }
.wan-ae-curve { padding-top: 1px; }
.wan-ae-picture path { fill: var(--wan-ae-on); }

.wan-ae-report { overflow: auto; user-select: text; -webkit-user-select: text; }
.wan-ae-report .wan-ae-chart { margin: 2px 0 4px; }
.wan-ae-text { margin: 0; padding: 4px 6px; font: 11px/14px ui-monospace, monospace; white-space: pre-wrap; overflow-wrap: anywhere;
  border-radius: 3px; background: var(--comfy-input-bg, #222); color: var(--input-text, #ddd); }
.wan-ae-table { width: 100%; font-size: 11px; border-collapse: collapse; font-variant-numeric: tabular-nums; margin-bottom: 4px; }
.wan-ae-table caption > div { width: 0; min-width: 100%; text-align: left; height: 17px; line-height: 17px; overflow: hidden; white-space: nowrap; text-overflow: ellipsis; }
.wan-ae-table tr { height: 17px; }
.wan-ae-table th, .wan-ae-table td { padding: 0 3px; font-weight: normal; text-align: right; white-space: nowrap; border-top: 1px solid var(--border-color, #4e4e4e); }
.wan-ae-table thead th { color: var(--descrip-text, #999); border-top: none; }
.wan-ae-table th:first-child { text-align: left; color: var(--descrip-text, #999); padding-left: 0; max-width: 105px; overflow: hidden; text-overflow: ellipsis; }

/* A blue that follows the theme's text, so that it differs from the theme's inputs in brightness, not in hue alone. */
.wan-ae { --wan-ae-on: color-mix(in srgb, #1c7fd4 55%, var(--input-text, #ddd)); --wan-ae-on-text: var(--comfy-input-bg, #222); }
`;

/** An element with a class, attributes and children. */
export function make(tag, className, attributes = {}, ...children) {
  const element = document.createElement(tag);
  if (className) element.className = className;
  for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
  element.append(...children);
  return element;
}

/** The root of a DOM widget: style in place, its pointer events kept from the node and the wheel given to the canvas. */
export function makeSurface(app, keepsWheel = () => false) {
  if (!document.getElementById(STYLE_ID)) {
    const style = make("style", "", { id: STYLE_ID });
    style.textContent = STYLE;
    document.head.append(style);
  }
  const root = make("div", "wan-ae");
  root.addEventListener("pointerdown", e => { if (e.button === 0) e.stopPropagation(); });
  root.addEventListener("dblclick", e => e.stopPropagation());
  root.addEventListener("keydown", e => { if (e.key === "Delete" || e.key === "Backspace") e.stopPropagation(); });
  root.addEventListener("wheel", e => {
    if (keepsWheel(e)) { e.preventDefault(); e.stopPropagation(); }
    else if (isClassic()) { e.preventDefault(); app.canvas.processMouseWheel(e); }
  }, { passive: false });
  passMiddleButton(root, app);
  return root;
}

function isClassic() {
  return !globalThis.LiteGraph?.vueNodesMode;
}

/** In the classic renderer the element lies over the canvas and would swallow panning with the middle button. */
function passMiddleButton(root, app) {
  const middle = { pointerdown: ["processMouseDown", e => e.button === 1], pointermove: ["processMouseMove", e => (e.buttons & 4) !== 0],
    pointerup: ["processMouseUp", e => e.button === 1] };
  for (const [type, [method, matches]] of Object.entries(middle))
    root.addEventListener(type, e => { if (isClassic() && matches(e)) app.canvas[method](e); });
}

/**
 * Strokes of the primary button, a pen or one finger over `element`.
 * start(e) returns false to refuse; move(e) follows; end() is called once; cancel() when a second finger makes it a pinch.
 */
export function onStroke(element, { start, move, end, cancel }) {
  let pointer = null;
  element.addEventListener("pointerdown", e => {
    if (e.button !== 0) return;
    if (pointer !== null) {
      if (e.pointerId !== pointer) { pointer = null; cancel(); }
      return;
    }
    if (start(e) === false) return;
    e.preventDefault();
    pointer = e.pointerId;
    element.setPointerCapture(pointer);
  });
  element.addEventListener("pointermove", e => {
    if (e.pointerId !== pointer) return;
    e.stopPropagation();
    move(e);
  });
  const finish = e => {
    if (e.pointerId !== pointer) return;
    e.stopPropagation();
    pointer = null;
    end();
  };
  for (const type of ["pointerup", "pointercancel", "lostpointercapture"]) element.addEventListener(type, finish);
}

/** True for keys that belong to the page's own shortcuts. */
export function isShortcut(e) {
  return e.ctrlKey || e.metaKey || e.altKey;
}
