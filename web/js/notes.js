// The notes of the example workflows in the language of the page. notes.zh.json has them by their English text.

let texts = null; // a promise of them

/** Translate the notes of a file before it is opened. Only a note that still has the text of an example changes. */
export async function translateNotes(data, language) {
  const notes = (data.nodes ?? []).filter(node => ["MarkdownNote", "Note"].includes(node.type));
  if (!["zh", "zh-TW"].includes(language) || !notes.length) return;
  texts ??= fetch(new URL("notes.zh.json", import.meta.url)).then(response => response.json());
  const translated = await texts;
  for (const { widgets_values: values } of notes) {
    if (Object.hasOwn(translated, values?.[0])) values[0] = translated[values[0]];
  }
}
