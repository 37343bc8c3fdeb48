// The components of a score as a diverging bar; names appear on hover, on focus and as text.

import { element } from "./elements.js";
import { signed } from "./numbers.js";

const SHOWN = 8;
const NAMES = {
  history: "history", friend: "friends", text: "taste in descriptions", query: "query text",
  profile: "profile", popularity: "popularity", head: "ranking head", rest: "other",
};

/** The common scale of all bars of a list; null if no item has reasons. */
export function reach(items) {
  const sums = items.filter((item) => item.reasons?.length).map((item) => sides(item.reasons));
  if (!sums.length) return null;
  const [right, left] = [0, 1].map((side) => Math.max(...sums.map((pair) => pair[side])));
  return right + left > 0 ? { left, whole: right + left } : null;
}

/** A bar with the list of its components. */
export function bar(item, scale) {
  const parts = largest(item.reasons);
  const spoken = parts.map((part) => `${named(part)} ${signed(part.value)}`).join("; ");
  const track = element("div", { class: "track", "aria-hidden": "true" }, ...segments(parts, scale), zero(scale));
  const rows = parts.map((part) => element("li", {}, swatch(part.kind), element("span", {}, named(part)),
    element("span", { class: "figures" }, signed(part.value))));
  const list = element("ul", { class: "parts", "aria-hidden": "true" }, ...rows);
  const whole = element("div", { class: "bar", tabindex: "0", role: "img",
    "aria-label": `Components of the score of ${item.title || item.item_id}: ${spoken}` }, track, list);
  whole.addEventListener("keydown", (event) => event.key === "Escape" && whole.classList.add("dismissed"));
  for (const name of ["focus", "pointerenter"]) whole.addEventListener(name, () => whole.classList.remove("dismissed"));
  return whole;
}

/** The legend of the kinds that occur. */
export function legend(items) {
  const kinds = new Set(items.flatMap((item) => largest(item.reasons ?? []).map((part) => part.kind)));
  return Object.keys(NAMES).filter((kind) => kinds.has(kind)).map((kind) =>
    element("li", {}, swatch(kind), NAMES[kind]));
}

function sides(reasons) {
  const values = reasons.map((reason) => reason.value);
  const sum = (kept) => kept.reduce((total, value) => total + value, 0);
  return [sum(values.filter((value) => value > 0)), -sum(values.filter((value) => value < 0))];
}

/** The largest components, grouped by kind; the rest is summed per sign. */
function largest(reasons) {
  const bySize = reasons.filter((reason) => reason.value !== 0)
    .toSorted((one, other) => Math.abs(other.value) - Math.abs(one.value));
  const kinds = Object.keys(NAMES);
  const shown = bySize.slice(0, SHOWN).toSorted((one, other) => kinds.indexOf(one.kind) - kinds.indexOf(other.kind));
  const [up, down] = sides(bySize.slice(SHOWN));
  const rest = [up, -down].filter((value) => value !== 0).map((value) => ({ kind: "rest", name: "", value }));
  return [...shown, ...rest];
}

function named(part) {
  const kind = NAMES[part.kind] ?? part.kind;
  return ["history", "friend"].includes(part.kind) ? `${kind}: ${part.name}` : kind;
}

function segments(parts, scale) {
  let [right, left] = [scale.left, scale.left];
  return parts.map((part) => {
    const size = Math.abs(part.value);
    if (part.value < 0) left -= size;
    const start = part.value < 0 ? left : right;
    if (part.value > 0) right += size;
    const segment = element("span", { class: "segment", "data-kind": part.kind });
    segment.style.left = `${(100 * start) / scale.whole}%`;
    segment.style.width = `${(100 * size) / scale.whole}%`;
    return segment;
  });
}

function zero(scale) {
  const line = element("span", { class: "zero" });
  line.style.left = `${(100 * scale.left) / scale.whole}%`;
  return line;
}

function swatch(kind) {
  return element("span", { class: "swatch", "data-kind": kind, "aria-hidden": "true" });
}
