// Links of help pages to other nodes of this pack: they open that node's help. The front end would open the page's text as a
// file, or an address that is none.

const storeOf = name => document.querySelector("#vue-app")?.__vue_app__?.config.globalProperties.$pinia?._s?.get(name);

/** @param isOurs node type => boolean */
export function followHelpLinks(isOurs) {
  document.addEventListener("click", event => {
    const link = event.target.closest?.("a[href]");
    const [, type] = /(?:^|\/)(\w+)\.md(?:#.*)?$/.exec(link?.getAttribute("href") ?? "") ?? [];
    const help = storeOf("nodeHelp"), definition = storeOf("nodeDef")?.nodeDefsByName?.[type];
    if (!type || !isOurs(type) || !help?.openHelp || !definition) return;
    event.preventDefault();
    event.stopPropagation();
    help.openHelp(definition);
  }, true);
}
