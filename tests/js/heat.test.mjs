import assert from "node:assert/strict";
import { test } from "node:test";
import { columnTitle, heat, selectionText } from "../../web/js/heat.js";
import { parseSelection, resolveSelection } from "../../web/js/selection.js";

const map = { quantity: "share", levels: [0.8, 0.4], values: [[0.5, null, -0.2], [0.25, null, 0]], low: [[0.4, null, null], [null, null, null]], high: [[0.6, null, null], [null, null, null]] };

test("colours run from violet to yellow, red is against, nothing is not measured", () => {
  assert.equal(heat(0.5, map), "rgb(253, 231, 37)");
  assert.equal(heat(0, map), "rgb(68, 1, 84)");
  assert.equal(heat(0.25, map), "rgb(33, 145, 140)");
  assert.equal(heat(-0.2, map), "rgb(196, 78, 82)");
  assert.equal(heat(null, map), "transparent");
});

test("a cell says its value and its interval", () => {
  assert.equal(columnTitle(map, 0, 0), "Block 0, noise 0.80: share 0.500 (0.400 to 0.600)");
  assert.equal(columnTitle(map, 1, 2), "Block 2, noise 0.40: share 0.000");
  assert.equal(columnTitle(map, 0, 1), "Block 1, noise 0.80: not measured");
});

test("a choice is text that the selection grammar reads back", () => {
  assert.equal(selectionText(new Set([7, 2, 3, 4])), "2-4, 7");
  assert.equal(selectionText(new Set()), "");
  const strengths = resolveSelection(parseSelection(selectionText(new Set([0, 1, 9]))), 10);
  assert.deepEqual(strengths.map(Boolean), [1, 1, 0, 0, 0, 0, 0, 0, 0, 1].map(Boolean));
});
