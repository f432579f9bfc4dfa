// What this pack writes on nodes, in the language that the user has chosen. The English text is the key: a text without a
// translation, such as an error of the server, stays as it is.

const ZH = [
  ["All", "全选"], ["None", "清空"], ["Invert", "反选"], ["custom", "自定义"], ["Dismiss", "关闭"],
  ["Select all blocks", "选择所有块"], ["Select no block", "不选任何块"], ["Invert the selection", "反转选择"],
  ["Preset", "预设"], ["Report", "报告"], ["Active blocks", "已启用的块"], ["Block strengths", "块强度"], ["Block map", "块图"],
  ["set by a link", "由连线决定"], ["Patching is off", "编辑已关闭"],
  ["No block selected: the model passes unchanged", "未选择任何块：模型原样传出"],
  ["Run the node to see the map", "运行节点后显示块图"],
  ["The edit did not act in this run: see its window and branch", "本次运行中编辑没有生效：请检查其区间和分支"],
  ["Stopped before the edit acted", "在编辑生效前已停止"],
  ["Blocks come from a link", "块由连线决定"],
  [/^Blocks come from a link: (\d+) of (\d+) in the last run$/, "块由连线决定：上次运行 $2 块中编辑了 $1 块"],
  [/^Blocks come from a link(?:: (\d+) of (\d+) in the last run)?; block_activations leaves out all but (\d+)$/, (_, active, total, kept) =>
    `块由连线决定${active ? `：上次运行 ${total} 块中编辑了 ${active} 块` : ""}；block_activations 只保留 ${kept} 块`],
  [/^(\d+) of (\d+) blocks selected$/, "已选 $2 块中的 $1 块"],
  [/^(\d+) of (\d+) blocks selected; block_activations leaves out (\d+) of block_strengths$/, "已选 $2 块中的 $1 块；block_activations 略去了 block_strengths 中的 $3 块"],
  [/^Selects blocks after (\d+)$/, "选择了 $1 之后的块"],
  [/^Block (\d+) is selected, but the model has (\d+) blocks$/, "选择了块 $1，但模型只有 $2 个块"],
  [/^Step (\d+), (\d+) of (\d+) blocks(?:, output change (\S+))?$/, (_, step, active, blocks, change) => `第 ${step} 步，${blocks} 块中的 ${active} 块${change ? `，输出变化 ${change}` : ""}`],
  [/^(Stopped after )?(\d+) steps?, (\d+) of (\d+) blocks(?:, output change (\S+))?$/, (_, stopped, steps, active, blocks, change) =>
    `${stopped ? "已停止，" : ""}共 ${steps} 步，${blocks} 块中的 ${active} 块${change ? `，输出变化 ${change}` : ""}`],
  [/^(Strength|Change|Share), top (\S+)$/, (_, what, top) => `${NAMES[what]}，最高 ${top}`],
  [/^Block (\d+): (strength|change|share) (\S+)$/, (_, block, what, value) => `块 ${block}：${NAMES[what]} ${value}`],
  [/^Block (\d+)$/, "块 $1"],
  [/^Block (\d+): set by its input$/, "块 $1：由其输入决定"],
  [/^Block (\d+): the model has (\d+) blocks$/, "块 $1：模型只有 $2 个块"],
  ["no block active", "没有启用的块"], [/^block (\d+): ([\d.]+)$/, "块 $1：$2"], [/^block (\d+): ([\d.]+), set by its input$/, "块 $1：$2，由其输入决定"],
  [/^(\d+) of (\d+) active$/, "已启用 $2 块中的 $1 块"],
  [/^(\d+) of (\d+) active, ([\d.]+)$/, "已启用 $2 块中的 $1 块，$3"],
  [/^(\d+) of (\d+) active, (below )?([\d.]+) to ([\d.]+)$/, (_, active, total, below, low, high) => `已启用 ${total} 块中的 ${active} 块，${below ? "低于 " : ""}${low} 至 ${high}`],
  [/^ \((\d+) active\)$/, "（已启用 $1 块）"], [/^model has (\d+) blocks$/, "模型有 $1 个块"],
  [/^Block (\d+): strength (\S+)$/, "块 $1：强度 $2"],
  [/^The guide is (\S+) in the folder of this pack\.$/, "该指南是本节点包文件夹中的 $1。"],
  [/^Copied: (.*)$/, "已复制：$1"],
  [/^(\d+) of (\d+) blocks in (.*?): (.*)$/, "$3 中已选 $2 块中的 $1 块：$4"],
  [/^No strength for blocks (.*): raise top, or unlink block_strengths$/, "块 $1 没有强度：增大 top，或断开 block_strengths"],
  [/^Block (\d+), noise ([\d.]+): not measured$/, "块 $1，噪声 $2：未测量"],
  [/^Block (\d+), noise ([\d.]+): (share|effect|motion) (\S+)(?: \((\S+) to (\S+)\))?$/, (_, block, noise, what, value, low, high) =>
    `块 ${block}，噪声 ${noise}：${what} ${value}${low ? `（${low} 至 ${high}）` : ""}`],
  [/^(share|effect|motion), (\d+) blocks x (\d+) noise levels$/, "$1，$2 块 x $3 个噪声水平"],
];
const NAMES = { Strength: "强度", strength: "强度", Change: "变化", change: "变化", Share: "份额", share: "份额" };
const PATTERNS = { zh: ZH, "zh-TW": ZH };

let patterns = [];

/** Set the language of the page: `zh`, `en`, ... */
export function speak(language) {
  patterns = PATTERNS[language] ?? [];
}

/** A text in the language of the page. */
export function say(text) {
  for (const [pattern, translated] of patterns) {
    if (pattern === text) return translated;
    if (pattern instanceof RegExp && pattern.test(text)) return text.replace(pattern, translated);
  }
  return text;
}
