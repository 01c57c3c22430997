// The few DOM helpers of this page. Text only ever arrives as text, never as markup.

export const $ = (id) => document.getElementById(id);

export function node(tag, { text, cls, ...attributes } = {}, ...children) {
  const made = document.createElement(tag);
  if (text !== undefined) made.textContent = text;
  if (cls) made.className = cls;
  for (const [name, value] of Object.entries(attributes)) made.setAttribute(name, value);
  made.append(...children);
  return made;
}

export function say(id, text) {
  const place = $(id);
  if (place.textContent !== text) place.textContent = text;
}

export function badge(id, text, tone) {
  say(id, text);
  $(id).className = `badge ${tone}`;
}

export const show = (id, visible) => { $(id).hidden = !visible; };

export function fill(id, items, empty) {
  $(id).replaceChildren(...(items.length ? items : [node("li", { text: empty, cls: "muted" })]));
}
