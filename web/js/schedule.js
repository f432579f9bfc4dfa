// Schedules: the grammar of patching/schedule.py. No DOM.

/** A schedule that cannot be read; the message says where and what is allowed. */
export class ScheduleError extends Error {}

const NUMBER = /^([0-9]+(\.[0-9]+)?|\.[0-9]+)(e-?[0-9]+)?$/, MAX_LENGTH = 4000;
const ROUNDING = 4e-3; // schedulers round their noise levels

/** Parse `0:0.2, 0.5:0.8, 1:1` into [progress, multiplier] pairs. Throws ScheduleError. */
export function parseSchedule(text) {
  if (text.length > MAX_LENGTH) throw new ScheduleError(`has ${text.length} characters, but at most ${MAX_LENGTH} are read`);
  const points = [];
  for (const match of text.matchAll(/[^\s,]+/g)) {
    const fail = why => new ScheduleError(`position ${match.index + 1}: "${match[0]}" ${why}`);
    const [progress, multiplier, ...rest] = match[0].toLowerCase().split(":");
    if (rest.length || multiplier === undefined || !NUMBER.test(progress) || !NUMBER.test(multiplier))
      throw fail("is no point; write progress:multiplier, as in 0:0.2, 0.5:0.8, 1:1");
    const point = [Number(progress), Number(multiplier)];
    if (point.some(number => !(number <= 1))) throw fail("has a number outside 0 to 1");
    if (points.length && point[0] <= points.at(-1)[0]) throw fail(`does not come after ${points.at(-1)[0]}; progress has to rise`);
    points.push(point);
  }
  return points;
}

/** The multiplier at `progress`: linear between points, theirs beyond them, 1 without any. */
export function scheduleAt(points, progress) {
  if (!points.length) return 1;
  const distance = ([at]) => Math.abs(progress - at);
  const nearest = points.reduce((best, point) => (distance(point) < distance(best) ? point : best));
  if (distance(nearest) <= ROUNDING) return nearest[1];
  const next = points.findIndex(([at]) => progress < at);
  if (next === 0) return points[0][1];
  if (next < 0) return points.at(-1)[1];
  const [[a, low], [b, high]] = [points[next - 1], points[next]];
  return low + ((high - low) * (progress - a)) / (b - a);
}
