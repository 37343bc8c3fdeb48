// By what an answer was made, and where its time went.

import { element } from "./elements.js";
import { short } from "./numbers.js";

/** A line, and a thin bar with one part for each component. */
export function servedBy(served) {
  const { total = 0, ...components } = served.milliseconds;
  const parts = Object.entries(components).filter(([, value]) => value > 0);
  const known = parts.reduce((sum, [, value]) => sum + value, 0);
  const line = element("p", {}, element("strong", {}, served.variant), ` on ${served.backend}`,
    element("span", { class: "figures" }, ` · ${short(total)} ms`), served.cached ? " · from the cache" : "");
  if (!parts.length) return [line];
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
  return [line, track, names];
}
