// Pause, resume and roll back. The token is asked for each time and never stored.

import { $, say } from "./dom.js";
import { query } from "./task.js";

const WORDS = {
  pause: ["Pause the rollout?", "Nodes that have the new bundle keep it; no further node is offered it."],
  resume: ["Resume the rollout?", "The share offered grows again as nodes commit."],
  rollback: ["Roll back?", "The release before is signed again, as the newest, and offered to every node. A gateway without the publisher's key cannot sign: it then says which command to run where the key is."],
};

export function wire(afterwards) {
  $("pause").addEventListener("click", () => ask($("pause").textContent === "Resume" ? "resume" : "pause", afterwards));
  $("rollback").addEventListener("click", () => ask("rollback", afterwards));
}

function ask(action, afterwards) {
  const dialog = $("confirm");
  [$("confirm-title").textContent, $("confirm-words").textContent] = WORDS[action];
  say("confirm-error", "");
  $("token").value = "";
  $("confirm-yes").onclick = async (event) => {
    event.preventDefault(); // the dialog stays open until the gateway has answered
    if (!$("token").reportValidity()) return;
    const problem = await send(action, $("token").value);
    say("confirm-error", problem);
    if (problem) return;
    $("token").value = "";
    dialog.close();
    afterwards();
  };
  dialog.showModal();
  $("token").focus();
}

async function send(action, token) {
  $("confirm-yes").disabled = true;
  try {
    const answer = await fetch(`api/rollout/${action}${query}`, { method: "POST", headers: { Authorization: `Bearer ${token}` } });
    if (answer.ok) return "";
    return (await answer.json()).error ?? `The gateway answered ${answer.status}.`;
  } catch {
    return "The gateway did not answer.";
  } finally {
    $("confirm-yes").disabled = false;
  }
}
