// Numbers and times in words. Anything that is not a finite number becomes a dash.

const isNumber = (value) => typeof value === "number" && Number.isFinite(value);

export const percent = (value, digits = 1) => (isNumber(value) ? `${(100 * value).toFixed(digits)} %` : "–");

export const count = (value) => (isNumber(value) ? Math.round(value).toLocaleString("en") : "–");

export const plain = (value, digits = 3) => (isNumber(value) ? value.toFixed(digits) : "–");

export const short = (digest) => (digest ? String(digest).replace(/^sha256:/, "").slice(0, 10) : "–");

export function money(value, currency) {
  if (!isNumber(value)) return "–";
  try {
    return value.toLocaleString("en", { style: "currency", currency: currency || "USD" });
  } catch {
    return `${value.toFixed(2)} ${currency}`; // not a currency code: show what the operator wrote
  }
}

export function ago(unixS, nowS) {
  if (!isNumber(unixS) || unixS <= 0) return "never";
  const s = Math.max(0, nowS - unixS);
  if (s < 90) return `${Math.round(s)} s ago`;
  if (s < 5400) return `${Math.round(s / 60)} min ago`;
  if (s < 129600) return `${Math.round(s / 3600)} h ago`;
  return `${Math.round(s / 86400)} days ago`;
}

export function until(unixS, nowS) {
  if (!isNumber(unixS)) return "no end";
  const days = (unixS - nowS) / 86400;
  return days < 0 ? "expired" : days < 2 ? `${Math.round(days * 24)} h` : `${Math.round(days)} days`;
}
