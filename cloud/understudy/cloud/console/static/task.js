// Which task the page is about: its address says so, hence a page for each can be kept as a bookmark.

import { $, node, show } from "./dom.js";

const chosen = new URLSearchParams(location.search).get("task");
export const query = chosen ? `?task=${encodeURIComponent(chosen)}` : "";

export function choices(tasks, task) {
  show("tasks", tasks.length > 1);
  show("task", tasks.length < 2);
  if ($("tasks").options.length === tasks.length) return;
  $("tasks").replaceChildren(...tasks.map((name) => node("option", { text: name, value: name })));
  $("tasks").value = task;
}

// A fresh page: nothing of the task before may be left in a section that this one does not have.
$("tasks").addEventListener("change", () => { location.search = new URLSearchParams({ task: $("tasks").value }); });
