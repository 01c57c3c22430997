// Three small time series, drawn by uPlot; made once, then fed.

import { $, node } from "./dom.js";

const charts = new Map();
const colour = (name) => {
  // A custom property with light-dark() is only resolved on an element that uses it.
  const probe = node("i");
  probe.style.color = `var(${name})`;
  document.body.append(probe);
  const found = getComputedStyle(probe).color;
  probe.remove();
  return found;
};

// Hours as 24; the date, without its year, where it changes. The columns are uPlot's: step, text, then year, month, day …
const TIMES = [
  [86400, "{MM}-{DD}", "\n{YYYY}", null, null, null, null, null, 1],
  [60, "{HH}:{mm}", "\n{MM}-{DD}", null, "\n{MM}-{DD}", null, null, null, 1],
  [1, "{HH}:{mm}:{ss}", "\n{MM}-{DD}", null, "\n{MM}-{DD}", null, null, null, 1],
];
const heightOf = (place) => (place.classList.contains("low") ? 125 : 180);
const hasLimit = (limit) => typeof limit === "number";

export function draw(id, times, values, { label, limit, limitLabel, format, log = false }) {
  const place = $(id);
  if (times.length < 2) {
    forget(id);
    place.replaceChildren(node("div", { text: "nothing yet", cls: "empty" }));
    return;
  }
  const data = hasLimit(limit) ? [times, values, times.map(() => limit)] : [times, values];
  if (charts.get(id)?.series.length !== data.length) forget(id);
  if (charts.has(id)) {
    charts.get(id).setData(data);
    return;
  }
  place.replaceChildren();
  charts.set(id, new window.uPlot(options(place, { label, limit, limitLabel, format, log }), data, place));
}

function options(place, { label, limit, limitLabel, format, log }) {
  const axis = { stroke: colour("--muted"), grid: { stroke: colour("--line"), width: 1 }, ticks: { show: false } };
  const y = { ...axis, size: 62, space: 26, grid: { ...axis.grid, show: !log } };
  const value = (_, raw) => (raw === null || raw === undefined ? "–" : format(raw));
  return {
    width: place.clientWidth,
    height: heightOf(place),
    cursor: { drag: { x: false, y: false } },
    scales: { y: log ? { distr: 3 } : { range: (_, low, high) => [Math.min(0, low), Math.max(high * 1.1, 0.01)] } },
    axes: [{ ...axis, values: TIMES }, { ...y, values: (_, ticks) => ticks.map((t) => (t === null ? "" : format(t))) }],
    series: [
      { value: "{YYYY}-{MM}-{DD} {HH}:{mm}" },
      { label, stroke: colour("--accent"), width: 2, value, points: { show: false }, spanGaps: true },
      ...(hasLimit(limit) ? [{ label: limitLabel, stroke: colour("--bad"), width: 1.5, dash: [6, 4], value, points: { show: false } }] : []),
    ],
  };
}

function forget(id) {
  charts.get(id)?.destroy();
  charts.delete(id);
}

export function forgetAll() {
  for (const id of [...charts.keys()]) {
    forget(id);
    $(id).replaceChildren();
  }
}

export function fit() {
  for (const [id, chart] of charts) chart.setSize({ width: $(id).clientWidth, height: heightOf($(id)) });
}
