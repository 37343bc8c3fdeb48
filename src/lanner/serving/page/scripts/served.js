// How a response was produced: variant, backend, latency by component, and notes.

import { element } from "./elements.js";
import { short } from "./numbers.js";

const SHOWN = 10;

/** A line, notes, and a bar with one segment per latency component. */
export function servedBy(answer) {
  const { served } = answer;
  const { total = 0, ...components } = served.milliseconds;
  const parts = Object.entries(components).filter(([, value]) => value > 0);
  const known = parts.reduce((sum, [, value]) => sum + value, 0);
  const line = element("p", {}, element("strong", {}, served.variant), ` on ${served.backend}`,
    element("span", { class: "figures" }, ` · ${short(total)} ms`), served.cached ? " · from the cache" : "");
  const notes = remarks(answer).map((note) => element("p", { class: "note" }, note));
  if (!parts.length) return [line, ...notes];
  const track = element("div", { class: "times", "aria-hidden": "true" });
  const names = element("ul", { class: "times-names" });
  parts.forEach(([name, value], place) => {
    const tone = String(place % 6);
    const part = element("span", { "data-tone": tone });
    part.style.width = `${(100 * value) / Math.max(known, total)}%`;
    track.append(part);
    names.append(element("li", {}, element("span", { class: "swatch", "data-tone": tone, "aria-hidden": "true" }),
      `${name} `, element("span", { class: "figures" }, `${value.toFixed(2)} ms`)));
  });
  return [line, ...notes, track, names];
}

/** Notes: popularity fallback, ignored text, unknown ids. */
function remarks({ fallback, text_ignored: ignored, unknown = [] }) {
  return [
    fallback && "Popular items: nothing is known about this user.",
    ignored && "Query text ignored: this variant does not use texts.",
    unknown.length && `Unknown ids: ${unknown.slice(0, SHOWN).join(", ")}${unknown.length > SHOWN ? " …" : ""}`,
  ].filter(Boolean);
}
