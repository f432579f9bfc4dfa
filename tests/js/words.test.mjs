import assert from "node:assert/strict";
import { test } from "node:test";
import { say, speak } from "../../web/js/words.js";

test("texts are translated with their figures, others stay", () => {
  speak("zh");
  assert.equal(say("All"), "全选");
  assert.equal(say("20 of 40 blocks selected"), "已选 40 块中的 20 块");
  assert.equal(say("2 steps, 10 of 30 blocks, output change 0.125"), "共 2 步，30 块中的 10 块，输出变化 0.125");
  assert.equal(say("Stopped after 1 step, 3 of 30 blocks"), "已停止，共 1 步，30 块中的 3 块");
  assert.equal(say("Block 3, noise 0.80: share 0.500 (0.400 to 0.600)"), "块 3，噪声 0.80：share 0.500（0.400 至 0.600）");
  assert.equal(say("Share, top 0.123"), "份额，最高 0.123");
  assert.equal(say("position 1: nothing"), "position 1: nothing");
  speak("en");
  assert.equal(say("All"), "All");
});
