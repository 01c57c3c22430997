// State in, page out. Every section may be missing; then it says so.

import { badge, fill, node, say, show, $ } from "./dom.js";
import { ago, count, money, percent, plain, short, until } from "./format.js";
import { draw } from "./charts.js";

const STAGES = [0.05, 0.25, 1];
const MOST_NODES = 200;
const REVOKED = {
  risk: "New audits contradict the certificate.",
  new_labels: "Requests of a new kind arrive: the teacher names labels that the student cannot say, more often than when it was certified.",
};
// How a slice stands: by the night's rows, proved again by live audits since, or withdrawn.
const STANDS = { night: ["since the night", "good"], live: ["proved live", "good"], revoked: ["revoked", "bad"] };
const TONES = { promote: "good", keep: "warn", undecided: "note" };

export function render(state, filter) {
  const now = state.now_unix_s ?? Date.now() / 1000;
  say("task", state.task ?? "");
  say("version", state.version ? `Understudy ${state.version}` : "");
  contract(state.contract, state.certificate, now);
  calls(state.traffic, state.cost);
  rollout(state.rollout, state.writable);
  history(state.history ?? [], state.contract, state.drift);
  drift(state.drift, now);
  nodes(state.nodes ?? [], filter, now);
  nights(state.nights ?? []);
  releases(state.releases ?? [], now);
  escalations(state.escalations ?? [], now);
}

function contract(contract, certificate, now) {
  if (contract) {
    say("promise", `Lose at most ${percent(contract.max_quality_loss)} against the teacher, with ${percent(contract.confidence, 0)} confidence.`);
    $("promise").classList.remove("muted");
  }
  const seen = verdict(certificate);
  badge("certificate", seen.word, seen.tone);
  say("advice", seen.advice);
  show("advice", seen.advice !== "");
  show("gauge", Boolean(contract && certificate?.certified));
  slices(certificate?.slices ?? []);
  if (!certificate) return;
  if (contract) gauge(certificate.risk_upper_bound, contract.max_quality_loss);
  $("facts").replaceChildren(...[
    ["Threshold", certificate.threshold === null || certificate.threshold === undefined ? "none: all escalate" : plain(certificate.threshold)],
    ["Kept on the edge", percent(certificate.keep_rate)],
    ["Audited rows", count(certificate.rows)],
    ["Errors among kept", count(certificate.errors)],
    ["Issued", ago(certificate.issued_unix_s, now)],
    ["Valid for", until(certificate.expires_unix_s, now)],
  ].map(([name, value]) => node("div", {}, node("dt", { text: name }), node("dd", { text: value }))));
}

function verdict(certificate) {
  if (!certificate) return { word: "unknown", tone: "waiting", advice: "" };
  if (certificate.revoked) return { word: "revoked", tone: "bad", advice: `${REVOKED[certificate.cause] ?? REVOKED.risk} Nodes answer certified=False until a night renews it.` };
  const lost = (certificate.slices ?? []).filter((s) => s.revoked).map((s) => s.name);
  if (lost.length) return { word: "slices revoked", tone: "warn", advice: `Withdrawn for ${lost.join(", ")}: answers of these slices say certified=False until a night renews them. The rest stands.` };
  if (certificate.certified) return { word: "certified", tone: "good", advice: "" };
  const missing = certificate.rows_missing > 0
    ? `About ${count(certificate.rows_missing)} more audited rows are needed.`
    : "Nothing is proved about this student yet: everything escalates, and the audits will tell.";
  return { word: "not certified", tone: "warn", advice: missing };
}

function slices(list) {
  show("slices", list.length > 0);
  $("slice-rows").replaceChildren(...list.map((s) => {
    const [word, tone] = STANDS[s.revoked ? "revoked" : s.standing] ?? [s.standing ?? "–", "waiting"];
    const number = (name, text) => node("td", { text, cls: "n", "data-name": name });
    return node("tr", {}, node("td", { text: s.name }), node("td", {}, node("span", { text: word, cls: `badge ${tone}` })),
      number("threshold", plain(s.threshold)), number("rows", count(s.rows)), number("drift", percent(s.drift, 0)));
  }));
}

function gauge(bound, allowed) {
  const scale = Math.max(bound ?? 0, allowed) * 1.25 || 1;
  $("gauge-bar").style.width = `${Math.min(100, (100 * (bound ?? 0)) / scale)}%`;
  $("gauge-bar").classList.toggle("over", (bound ?? 0) > allowed);
  $("gauge-limit").style.left = `${(100 * allowed) / scale}%`;
  say("gauge-bound", `proved: at most ${percent(bound, 2)}`);
  say("gauge-allowed", `allowed: ${percent(allowed, 2)}`);
}

function calls(traffic, cost) {
  if (!traffic || !traffic.requests) return;
  const used = traffic.teacher_calls ?? traffic.escalated ?? 0;
  const asked = Math.max(traffic.requests, used); // nodes report their requests a check-in later
  const saved = asked - used;
  say("call-rate", percent(used / asked));
  say("call-words", `${count(used)} of ${count(asked)} requests, audits counted`);
  const price = cost?.per_teacher_call;
  const words = price ? `${money(saved * price, cost.currency)} saved, ` : "";
  say("saved", `${words}${count(saved)} calls fewer than always asking`);
  const parts = [["kept", traffic.kept, "student"], ["asked", traffic.escalated, "teacher"], ["degraded", traffic.degraded, "degraded"]];
  show("mix", true);
  $("mix").replaceChildren(...parts.map(([cls, value]) => {
    const part = node("span", { cls: `fill-${cls}` });
    part.style.flexGrow = String(value ?? 0);
    return part;
  }));
  $("mix-key").replaceChildren(...parts.map(([cls, value, name]) =>
    node("li", {}, node("i", { cls: `fill-${cls}` }), `${name} ${percent((value ?? 0) / traffic.requests)}`)));
}

function rollout(rollout, writable) {
  show("stages", Boolean(rollout));
  show("rollout-buttons", Boolean(rollout && writable));
  if (!rollout) {
    badge("rollout-state", "none", "waiting");
    return;
  }
  const tone = { running: "note", paused: "warn", stopped: "bad", done: "good" }[rollout.state] ?? "waiting";
  badge("rollout-state", rollout.state, tone);
  say("rollout-words", `${short(rollout.bundle)} to ${rollout.channel ?? "stable"}, offered to ${percent(rollout.share, 0)}${rollout.reason ? `: ${rollout.reason}` : ""}`);
  $("stages").replaceChildren(...(rollout.stages ?? STAGES).map((stage) => {
    const done = rollout.share > stage || rollout.state === "done";
    const now = !done && rollout.share === stage;
    return node("span", { text: percent(stage, 0), cls: done ? "done" : now ? "now" : "" });
  }));
  say("rollout-counts", `${count(rollout.committed)} committed, ${count(rollout.failed)} failed, ${count(rollout.silent)} silent`);
  say("pause", rollout.state === "paused" ? "Resume" : "Pause");
  $("pause").disabled = !["running", "paused"].includes(rollout.state);
}

function history(points, contract, drift) {
  const times = points.map((p) => p.unix_s);
  const of = (key) => points.map((p) => p[key] ?? null);
  draw("risk-chart", times, of("risk_upper_bound").map((v) => v || null), { // 0: nothing was proved then
    label: "bound", limit: contract?.max_quality_loss, limitLabel: "contract", format: (v) => percent(v) });
  draw("share-chart", times, of("teacher_call_rate"), { label: "teacher calls", limit: contract?.budget, limitLabel: "budget", format: (v) => percent(v, 0) });
  draw("drift-chart", times, of("drift").map((v) => (v === null ? null : Math.max(v, 0.01))), { label: "evidence", limit: drift?.limit, limitLabel: "alarm", format: (v) => (v >= 1000 ? v.toLocaleString("en") : String(Number(v.toPrecision(2)))), log: true });
}

function drift(drift, now) {
  if (!drift) return;
  badge("drift-state", drift.alarm ? "alarm" : "quiet", drift.alarm ? "bad" : "good");
  say("drift-words", drift.alarm
    ? `Traffic is no longer what was certified; it began ${ago(drift.since_unix_s, now)}. The threshold is raised and a night is asked for.`
    : `Evidence ${plain(drift.value, 1)} of ${count(drift.limit)} that would ring the alarm.`);
}

function nodes(all, filter, now) {
  const wanted = all.filter((n) => !filter || JSON.stringify(n).toLowerCase().includes(filter.toLowerCase()));
  const trouble = (n) => Number(Boolean(n.failure || n.revoked));
  wanted.sort((a, b) => trouble(b) - trouble(a) || String(a.node).localeCompare(String(b.node)));
  $("nodes").replaceChildren(...wanted.slice(0, MOST_NODES).map((n) => row(n, now)));
  const counted = all.some((n) => typeof n.requests === "number");
  $("nodes").closest("table").classList.toggle("narrow", !counted);
  const more = wanted.length - MOST_NODES;
  say("nodes-more", all.length === 0 ? "nothing yet" : more > 0 ? `and ${count(more)} more: filter to see them` : `${count(wanted.length)} of ${count(all.length)}`);
}

function row(n, now) {
  const number = (name, value) => node("td", { text: count(value), cls: "n", "data-name": name });
  const state = node("td", {}, node("span", { text: n.revoked ? "revoked" : n.state ?? "–" }));
  if (n.failure) state.append(node("div", { text: n.failure, cls: "failure" }));
  return node("tr", {},
    node("td", { text: n.node }), node("td", {}, node("code", { text: short(n.bundle) })), state,
    number("requests", n.requests), number("asked", n.escalated), number("degraded", n.degraded), number("spool", n.spool_rows),
    node("td", { text: ago(n.last_seen_unix_s, now) }));
}

function nights(list) {
  fill("nights", list.map((n) => {
    const main = node("div", { cls: "main" }, node("strong", { text: n.date }), " ", node("span", { text: n.verdict, cls: `badge ${TONES[n.verdict] ?? "waiting"}` }));
    if (n.reason) main.append(node("div", { text: n.reason, cls: "muted small" }));
    const side = node("div", { cls: "side" });
    if (n.report && /^[\p{L}\p{N}_./ -]+$/u.test(n.report)) side.append(node("a", { text: "report", href: `reports/${n.report.split("/").map(encodeURIComponent).join("/")}` }), node("br"));
    side.append(n.seconds ? `${Math.round(n.seconds)} s` : "");
    return node("li", {}, main, side);
  }), "no night yet");
}

function releases(list, now) {
  fill("releases", list.map((r) => node("li", {},
    node("div", { cls: "main" }, node("code", { text: short(r.bundle) }), ` version ${r.version ?? "–"} `, ...(r.current ? [node("span", { text: "current", cls: "badge good" })] : [])),
    node("div", { text: `${r.channel ?? ""} ${ago(r.published_unix_s, now)}`, cls: "side" }))), "nothing published yet");
}

function escalations(list, now) {
  fill("escalations", list.map((e) => {
    const main = node("div", { cls: "main" }, node("div", { text: e.text ?? "(not shown)" }));
    const words = e.teacher_label ? `${e.student_label ?? "?"} → ${e.teacher_label}` : e.student_label ?? "";
    main.append(node("div", { text: words, cls: "muted small" }));
    return node("li", {}, main, node("div", { cls: "side" }, `${e.kind ?? ""} ${plain(e.confidence, 2)}`, node("br"), ago(e.unix_s, now)));
  }), "nothing asked yet");
}
