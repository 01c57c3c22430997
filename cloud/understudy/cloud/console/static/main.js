// Asks the gateway every two seconds while the page is looked at, and draws what it says.

import { $, say } from "./dom.js";
import { fit, forgetAll } from "./charts.js";
import { render } from "./view.js";
import { wire } from "./rollout.js";
import { choices, query } from "./task.js";

const EVERY_MS = 2000;
const DEADLINE_MS = 5000;
let last = null;
let timer = 0;

async function look() {
  clearTimeout(timer);
  try {
    const answer = await fetch(`api/state${query}`, { cache: "no-store", signal: AbortSignal.timeout(DEADLINE_MS) });
    if (!answer.ok) throw new Error(await why(answer));
    last = await answer.json();
    choices(last.tasks ?? [], last.task);
    render(last, $("node-filter").value);
    live("live", "good");
  } catch (error) {
    live(`no answer: ${error.name === "TimeoutError" ? "too slow" : error.message}`, "bad");
  }
  if (!document.hidden) timer = setTimeout(look, EVERY_MS);
}

async function why(answer) {
  const said = await answer.json().catch(() => ({}));
  return said.error ?? `status ${answer.status}`;
}

function live(words, tone) {
  say("live", words);
  $("live").className = `pill ${tone}`;
}

function again() {
  if (last) render(last, $("node-filter").value);
}

function turn() {
  const dark = getComputedStyle(document.documentElement).colorScheme === "dark"
    || (!document.documentElement.dataset.theme && matchMedia("(prefers-color-scheme: dark)").matches);
  document.documentElement.dataset.theme = dark ? "light" : "dark";
  forgetAll();
  again();
}

$("theme").addEventListener("click", turn);
$("node-filter").addEventListener("input", again);
addEventListener("resize", fit);
document.addEventListener("visibilitychange", () => { if (!document.hidden) look(); });
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => { forgetAll(); again(); });
wire(look);
look();
