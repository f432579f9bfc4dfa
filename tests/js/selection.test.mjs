// The range logic behind pointer and keyboard.

import assert from "node:assert/strict";
import { test } from "node:test";

import {
  cellsBetween, hundredths, moved, parseSelection, ramp, range, resolveSelection, withValue, writeSelection,
} from "../../web/js/selection.js";
import { parseSchedule } from "../../web/js/schedule.js";

test("a range includes both ends, in either direction", () => {
  assert.deepEqual(range(3, 6), [3, 4, 5, 6]);
  assert.deepEqual(range(6, 3), [3, 4, 5, 6]);
  assert.deepEqual(range(4, 4), [4]);
});

test("a fast drag leaves no gap between two cells", () => {
  assert.deepEqual(cellsBetween(2, 5, 10), [3, 4, 5]);
  assert.deepEqual(cellsBetween(5, 2, 10), [4, 3, 2]);
  assert.deepEqual(cellsBetween(3, 33, 10), [13, 23, 33]);
  assert.deepEqual(cellsBetween(0, 33, 10), [11, 22, 33]);
  assert.deepEqual(cellsBetween(7, 7, 10), []);
  for (let from = 0; from < 40; from++)
    for (let to = 0; to < 40; to++) {
      const path = [from, ...cellsBetween(from, to, 10)];
      assert.equal(path.at(-1), to);
      for (let k = 1; k < path.length; k++) {
        const dx = Math.abs((path[k] % 10) - (path[k - 1] % 10)), dy = Math.abs(Math.floor(path[k] / 10) - Math.floor(path[k - 1] / 10));
        assert.equal(Math.max(dx, dy), 1, `${from} to ${to}: ${path}`);
      }
    }
});

test("bars between two points of a stroke lie on a line", () => {
  assert.deepEqual(ramp(2, 0, 4, 1), [[2, 0], [3, 0.5], [4, 1]]);
  assert.deepEqual(ramp(4, 1, 2, 0), [[2, 0], [3, 0.5], [4, 1]]);
  assert.deepEqual(ramp(7, 0.2, 7, 0.9), [[7, 0.9]]);
});

test("painting leaves the original and the locked cells alone", () => {
  const before = [true, false, false];
  assert.deepEqual(withValue(before, [0, 1, 2], true, i => i === 2), [true, true, false]);
  assert.deepEqual(before, [true, false, false]);
});

test("arrow keys stay on the grid", () => {
  assert.equal(moved("ArrowRight", 9, 40, 10), 10);
  assert.equal(moved("ArrowDown", 9, 40, 10), 19);
  assert.equal(moved("ArrowUp", 9, 40, 10), 9);
  assert.equal(moved("ArrowDown", 35, 40, 10), 35);
  assert.equal(moved("ArrowRight", 39, 40, 10), 39);
  assert.equal(moved("ArrowLeft", 0, 40, 10), 0);
  assert.equal(moved("Home", 17, 40, 10), 0);
  assert.equal(moved("End", 17, 40, 10), 39);
  assert.equal(moved("a", 17, 40, 10), undefined);
});

test("strengths are hundredths from 0 to 1", () => {
  assert.deepEqual([0.304, 0.305001, -1, 7, NaN, null, "0.5"].map(hundredths), [0.3, 0.31, 0, 1, 0, 0, 0.5]);
});

test("what the grid writes says the strengths that it was given", () => {
  const written = strengths => resolveSelection(parseSelection(writeSelection(strengths)), strengths.length);
  for (const count of [30, 40, 48])
    for (const text of ["mid_blocks", "all", "none", "0, 2-4:0.35, 5:0.36, 29", "alternating", "/4:0.5", "28-29"]) {
      const strengths = resolveSelection(parseSelection(text), count);
      assert.deepEqual(written(strengths), strengths, `${text} of ${count}`);
    }
  assert.equal(writeSelection(resolveSelection(parseSelection("7-22"), 30)), "mid_blocks");
  assert.equal(writeSelection([1, 1, 0.5, 0, 1, 0]), "0-1, 2:0.5, 4");
});

test("a text of any length is refused at once, with a short message", () => {
  assert.throws(() => parseSelection(`7:${"1".repeat(3_900)}x`), /has no readable strength/);
  assert.throws(() => parseSelection(`7:${"1".repeat(1_000_000)}x`), /^Error: has 1000003 characters, but at most 4000 are read$/);
  assert.throws(() => parseSchedule(`0:${"1".repeat(1_000_000)}x`), /at most 4000 are read$/);
});
