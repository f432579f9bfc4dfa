import assert from "node:assert/strict";
import { test } from "node:test";
import { partsOf } from "../../web/js/tables.js";

test("a table in a report is cut out by its dashes, the text around it stays", () => {
  const report = ["Embeddings: 2", "", "embedding         cosine  tags", "----------------  ------  ----", "a red fox, snow   0.9987     -", "b                   0.5   x, y", "", "Turn dry_run off."].join("\n");
  assert.deepEqual(partsOf(report), [
    { text: "Embeddings: 2" },
    { table: { columns: ["embedding", "cosine", "tags"], rows: [["a red fox, snow", "0.9987", "-"], ["b", "0.5", "x, y"]] } },
    { text: "Turn dry_run off." },
  ]);
});

test("text without a table is one part, nothing is none", () => {
  assert.deepEqual(partsOf("one - two\n--\nthree"), [{ text: "one - two\n--\nthree" }]);
  assert.deepEqual(partsOf("  \n"), []);
});
