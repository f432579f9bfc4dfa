// Presets, curves and the selection grammar against the table that Python wrote.

import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import { test } from "node:test";

import { PATTERNS, PRESETS, patternStrengths, presetBlocks, uniformRandom } from "../../web/js/patterns.js";
import { SelectionError, isBlank, parseSelection, resolveSelection } from "../../web/js/selection.js";

const table = JSON.parse(readFileSync(new URL("../vectors/patterns.json", import.meta.url)));

function assertClose(actual, expected, what) {
  assert.equal(actual.length, expected.length, what);
  expected.forEach((value, i) => assert.ok(Math.abs(actual[i] - value) <= 1e-12, `${what}, block ${i}: ${actual[i]} for ${value}`));
}

test("presets name the same blocks", () => {
  for (const { name, count, blocks } of table.presets)
    assert.deepEqual(presetBlocks(name, count).flatMap((on, i) => (on ? [i] : [])), blocks, `${name} of ${count}`);
  assert.deepEqual([...new Set(table.presets.map(c => c.name))], PRESETS);
});

test("patterns draw the same curves", () => {
  for (const { name, count, parameters, strengths } of table.patterns)
    assertClose(patternStrengths(name, count, parameters), strengths, `${name} of ${count} ${JSON.stringify(parameters)}`);
  assert.deepEqual([...new Set(table.patterns.map(c => c.name))], PATTERNS);
});

test("names that are neither preset nor pattern give null", () => {
  for (const name of ["custom", "", "toString", undefined]) {
    assert.equal(presetBlocks(name), null);
    assert.equal(patternStrengths(name), null);
  }
});

test("the random curve is bit for bit mulberry32", () => {
  for (const { seed, values } of table.random) assert.deepEqual(uniformRandom(seed, values.length), values);
});

test("selections resolve to the same strengths", () => {
  for (const { text, count, blank, strengths } of table.selections) {
    const terms = parseSelection(text);
    assert.equal(isBlank(terms), blank, text);
    if (strengths === null) assert.throws(() => resolveSelection(terms, count), SelectionError, `${text} of ${count}`);
    else assert.deepEqual(resolveSelection(terms, count), strengths, `${text} of ${count}`);
  }
});

test("unreadable selections are refused at the same position", () => {
  for (const { text, position } of table.unreadable)
    assert.throws(() => parseSelection(text), e => e instanceof SelectionError && e.message.startsWith(`${position}: `), text);
});
