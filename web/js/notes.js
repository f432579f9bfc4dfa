// The notes of the example workflows in the language of the page. notes.zh.json has them by their English text.

/** Translate the notes of a file before it is opened. Only a note that still has the text of an example changes. */
export async function translateNotes(data, language) {
  const notes = (data.nodes ?? []).filter(node => ["MarkdownNote", "Note"].includes(node.type));
  if (language !== "zh" || !notes.length) return;
  const texts = await (await fetch(new URL("notes.zh.json", import.meta.url))).json();
  for (const { widgets_values: values } of notes) {
    if (Object.hasOwn(texts, values?.[0])) values[0] = texts[values[0]];
  }
}
