// Links of help pages to other nodes of this pack: they open that node's help, where the front end has a store of it (1.35).
// It would open an address that is none. A link to the same node's page in English stays as it is.

const storeOf = name => document.querySelector("#vue-app")?.__vue_app__?.config.globalProperties.$pinia?._s?.get(name);

/** @param isOurs node type => boolean */
export function followHelpLinks(isOurs) {
  document.addEventListener("click", event => {
    const link = event.target.closest?.("a[href]");
    const [, type] = /(?:^|\/)(\w+)\.md(?:#.*)?$/.exec(link?.getAttribute("href") ?? "") ?? [];
    const help = storeOf("nodeHelp"), definition = storeOf("nodeDef")?.nodeDefsByName?.[type];
    if (!type || !isOurs(type) || !help?.openHelp || !definition || help.currentHelpNode?.name === type) return;
    if (event.ctrlKey || event.metaKey) return;
    event.preventDefault();
    event.stopPropagation();
    help.openHelp(definition);
  }, true);
}
