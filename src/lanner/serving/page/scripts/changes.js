// What an event changed: where each item stood before, and which came and left.

import { counted } from "./numbers.js";

/** Between two lists: by id "new", or places gained (above 0) or lost; and the items that left. */
export function changes(before, after) {
  const placed = new Map(before.map((item) => [item.item_id, item.rank]));
  const marks = new Map();
  for (const item of after) {
    const gained = placed.has(item.item_id) ? placed.get(item.item_id) - item.rank : "new";
    if (gained !== 0) marks.set(item.item_id, gained);
  }
  const still = new Set(after.map((item) => item.item_id));
  return { marks, left: before.filter((item) => !still.has(item.item_id)) };
}

/** A change in one sentence. */
export function told({ marks, left }) {
  const came = [...marks.values()].filter((mark) => mark === "new").length;
  const moved = marks.size - came;
  if (!came && !moved && !left.length) return "The event is stored; the list stays as it was.";
  const gone = left.map((item) => item.title || item.item_id).join(", ");
  const parts = [came && `${came} came`, moved && `${moved} moved`, left.length && `${left.length} left (${gone})`];
  return `The event is stored: ${parts.filter(Boolean).join(", ")}.`;
}

/** A mark beside a rank: how it looks, and how it is said. */
export function markOf(mark) {
  if (mark === "new") return { kind: "new", looks: "new", says: "new in the list" };
  const places = counted(Math.abs(mark), "place");
  return mark > 0
    ? { kind: "up", looks: `▲ ${mark}`, says: `${places} up` }
    : { kind: "down", looks: `▼ ${-mark}`, says: `${places} down` };
}
