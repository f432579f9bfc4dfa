// Links of help pages. To another node of this pack: its help, where the front end can be told to open it (1.35), else the
// page's text in a window, as for a translated page's own node; the address itself is a download. To a guide: where it is.

import { make } from "./surface.js";
import { say } from "./words.js";

const PAGES = new URL("../docs/", import.meta.url);
const PREFIX = decodeURI(PAGES.pathname).replace(/^.*(?=\/extensions\/)/, ""); // newer front ends put it before a link
const PAGE = /^(?:\.\.\/)?(\w+)\.md(?:#.*)?$/, GUIDE = /^(?:\.\.\/){2,3}(docs\/guides\/(?:block-map|control-vectors)\.md)/;

const storeOf = name => document.querySelector("#vue-app")?.__vue_app__?.config.globalProperties.$pinia?._s?.get(name);

/** @param isOurs node type => boolean */
export function followHelpLinks(app, isOurs) {
  document.addEventListener("click", event => {
    const address = (event.target.closest?.("a[href]")?.getAttribute("href") ?? "").replace(PREFIX, "");
    const [, type] = PAGE.exec(address) ?? [], [, guide] = GUIDE.exec(address) ?? [];
    const help = storeOf("nodeHelp"), definition = storeOf("nodeDef")?.nodeDefsByName?.[type];
    if (event.ctrlKey || event.metaKey || !(guide || (type && isOurs(type)))) return;
    event.preventDefault();
    event.stopPropagation();
    if (guide) {
      tell(app, "info", say(`The guide is ${guide} in the folder of this pack.`));
    } else if (help?.openHelp && definition && help.currentHelpNode?.name !== type) help.openHelp(definition);
    else showText(app, type);
  }, true);
}

async function showText(app, type) {
  const answer = await fetch(new URL(`${type}.md`, PAGES)).catch(error => ({ statusText: error.message }));
  if (!answer.ok) return tell(app, "error", `${type}.md: ${answer.statusText}`);
  const text = make("pre", "", { style: "white-space: pre-wrap; max-width: 90ch; color: var(--input-text); margin: 0; font: 13px/1.5 sans-serif" }, await answer.text());
  app.ui.dialog.show(text);
}

function tell(app, severity, detail) {
  app.extensionManager.toast.add({ severity, summary: "WanVideo Activation Editor", detail, life: 15000 });
}
