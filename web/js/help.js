// Links of help pages. To another node of this pack: its help, where the front end can be told to open it (1.35), else the
// page's text in a window, as for a translated page's own node; the address itself is a download. To a guide: where it is.

import { make } from "./surface.js";
import { say } from "./words.js";

const PAGE = /(?:^|\/)(\w+)\.md(?:#.*)?$/, GUIDE = /docs\/guides\/[\w-]+\.md/;

const storeOf = name => document.querySelector("#vue-app")?.__vue_app__?.config.globalProperties.$pinia?._s?.get(name);

/** @param isOurs node type => boolean */
export function followHelpLinks(app, isOurs) {
  document.addEventListener("click", event => {
    const link = event.target.closest?.("a[href]"), address = link?.getAttribute("href") ?? "";
    const [, type] = PAGE.exec(address) ?? [], [guide] = GUIDE.exec(address) ?? [];
    const help = storeOf("nodeHelp"), definition = storeOf("nodeDef")?.nodeDefsByName?.[type];
    if (event.ctrlKey || event.metaKey || !(guide || (type && isOurs(type)))) return;
    event.preventDefault();
    event.stopPropagation();
    if (guide) {
      const detail = say(`The guide is ${guide} in the folder of this pack.`);
      app.extensionManager.toast.add({ severity: "info", summary: "WanVideo Activation Editor", detail, life: 15000 });
    } else if (help?.openHelp && definition && help.currentHelpNode?.name !== type) help.openHelp(definition);
    else showText(app, type);
  }, true);
}

async function showText(app, type) {
  const answer = await fetch(new URL(`../docs/${type}.md`, import.meta.url));
  const text = make("pre", "", { style: "white-space: pre-wrap; max-width: 90ch; color: var(--input-text); margin: 0; font: 13px/1.5 sans-serif" }, await answer.text());
  app.ui.dialog.show(text);
}
