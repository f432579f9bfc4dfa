// Words that people search by, beside a node's name (search_words.json). Newer ComfyUI sends them in the definition; for
// others they are added here, and the search of older front ends is extended, also for inputs that take one of several types.

const ALIASES = await (await fetch(new URL("search_words.json", import.meta.url))).json();

/** Put the words into a node's definition before it is registered. */
export function addAliases(data) {
  const own = ALIASES[data.name];
  if (own) data.search_aliases = [...new Set([...(data.search_aliases ?? []), ...own])];
}

const wordsOf = text => text.toLowerCase().split(/\s+/).filter(Boolean);

/** Whether every word of a query begins a word of one alias. */
function isNamedBy(query, name) {
  const asked = wordsOf(query);
  return asked.length > 0 && (ALIASES[name] ?? []).some(alias => {
    const words = wordsOf(alias);
    return asked.every(word => words.some(each => each.startsWith(word)));
  });
}

/** The plain types of a definition's inputs or outputs: "A,B" and MatchType take each of theirs. */
function typesOf(definition, side) {
  const templates = [...Object.values(definition.input?.required ?? {}), ...Object.values(definition.input?.optional ?? {})];
  const matched = templates.flatMap(([type, spec]) => (type === "COMFY_MATCHTYPE_V3" ? String(spec?.template?.allowed_types ?? "").split(",") : []));
  if (side === "output") return definition.output?.some(type => type === "COMFY_MATCHTYPE_V3") ? matched : [];
  return [...matched, ...templates.flatMap(([type]) => (typeof type === "string" && type.includes(",") ? type.split(",") : []))];
}

/**
 * Extend the search of a front end that knows no aliases (1.35.9).
 * @param definitions the pack's node definitions as the server sent them, by name
 */
export function extendOlderSearch(definitions) {
  const app = document.querySelector("#vue-app")?.__vue_app__;
  const service = app?.config.globalProperties.$pinia?._s?.get("nodeDef")?.nodeSearchService;
  const search = service?.searchNode;
  if (typeof search !== "function" || !service.nodeFuseSearch?.keys || service.nodeFuseSearch.keys.includes("search_aliases")) return;
  const passes = (node, filters) => filters.every(({ filterDef, value }) =>
    filterDef.matches(node, value) || typesOf(definitions.get(node.name), filterDef.id).includes(value));
  Object.getPrototypeOf(service).searchNode = function (query, filters = [], options, more) {
    const found = search.call(this, query, filters, undefined, more);
    const ours = this.nodeFuseSearch.data.filter(node => definitions.has(node.name));
    const literal = node => `${node.name} ${node.display_name}`.toLowerCase().includes(query.trim().toLowerCase());
    const byType = filters.length ? ours.filter(node => passes(node, filters)) : [];
    const named = (filters.length ? byType : ours).filter(node => isNamedBy(query, node.name));
    const allowed = filters.length ? this.nodeFuseSearch.search(query).filter(node => byType.includes(node)) : [];
    const all = [...new Set([...found.filter(literal), ...allowed.filter(literal), ...named, ...found, ...allowed])];
    return options?.limit ? all.slice(0, options.limit) : all;
  };
}
