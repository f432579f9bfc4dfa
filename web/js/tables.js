// Tables in a report's text: a head, a row of dashes as wide as each column, and rows until an empty line. No DOM.

const DASHES = /^-+( {2}-+)+$/;

/** A report in parts: { text }, or { table: { columns, rows } }. */
export function partsOf(report) {
  const lines = report.split("\n"), parts = [];
  let from = 0; // first line that is in no part
  const addText = to => {
    const text = lines.slice(from, to).join("\n").trim();
    if (text) parts.push({ text });
  };
  for (let i = 1; i < lines.length; i++) {
    if (!DASHES.test(lines[i])) continue;
    const columns = [...lines[i].matchAll(/-+/g)].map(({ index, 0: dashes }) => [index, index + dashes.length]);
    const cells = line => columns.map(([start, end]) => line.slice(start, end).trim());
    let end = i + 1;
    while (end < lines.length && lines[end].trim()) end++;
    addText(i - 1);
    parts.push({ table: { columns: cells(lines[i - 1]), rows: lines.slice(i + 1, end).map(cells) } });
    from = i = end;
  }
  addText(lines.length);
  return parts;
}
