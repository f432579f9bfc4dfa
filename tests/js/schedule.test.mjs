// Schedules against the table that Python wrote.

import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import { test } from "node:test";

import { ScheduleError, parseSchedule, scheduleAt } from "../../web/js/schedule.js";

const table = JSON.parse(readFileSync(new URL("../vectors/patterns.json", import.meta.url)));

test("schedules are worth the same everywhere", () => {
  assert.ok(table.schedules.length > 5);
  for (const { text, strengths } of table.schedules) {
    const points = parseSchedule(text);
    strengths.forEach((value, i) => {
      const now = scheduleAt(points, i / (strengths.length - 1));
      assert.ok(Math.abs(now - value) <= 1e-12, `${text} at ${i}: ${now} for ${value}`);
    });
  }
});

test("what Python cannot read is refused at the same place", () => {
  for (const { text, position } of table.unreadable_schedules)
    assert.throws(() => parseSchedule(text), error => error instanceof ScheduleError && error.message.startsWith(`${position}:`), text);
});
