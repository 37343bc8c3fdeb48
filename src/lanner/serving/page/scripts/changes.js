// Changes of the list after an event: moved, new and removed items.

import { counted } from "./numbers.js";

/** marks: by item id "new", or ranks gained (> 0) or lost (< 0). left: removed items. */
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

/** The changes in one sentence. */
export function told({ marks, left }) {
  const came = [...marks.values()].filter((mark) => mark === "new").length;
  const moved = marks.size - came;
  if (!came && !moved && !left.length) return "Event stored; the list is unchanged.";
  const gone = left.map((item) => item.title || item.item_id).join(", ");
  const parts = [came && `${came} new`, moved && `${moved} moved`, left.length && `${left.length} removed (${gone})`];
  return `Event stored: ${parts.filter(Boolean).join(", ")}.`;
}

/** A mark beside a rank: its look, and its text for screen readers. */
export function markOf(mark) {
  if (mark === "new") return { kind: "new", looks: "new", says: "new in the list" };
  const places = counted(Math.abs(mark), "place");
  return mark > 0
    ? { kind: "up", looks: `▲ ${mark}`, says: `${places} up` }
    : { kind: "down", looks: `▼ ${-mark}`, says: `${places} down` };
}
