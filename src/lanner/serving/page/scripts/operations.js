// The API operations used by the page; see openapi.json.

import { ask } from "./server.js";

const segment = (id) => (/^\.+$/.test(id) ? id.replaceAll(".", "%2E") : encodeURIComponent(id));

export const recommend = (request, options = {}) => ask("POST", "/v1/recommend", { ...options, body: request });

export const search = (words, k, userId) => {
  const query = new URLSearchParams({ q: words, k });
  if (userId) query.set("user_id", userId);
  return ask("GET", `/v1/search?${query}`);
};

export const similar = (itemId, k) => ask("GET", `/v1/items/${segment(itemId)}/similar?k=${k}`);

export const addEvent = (userId, itemId, key) =>
  ask("POST", "/v1/events", { body: { events: [{ user_id: userId, item_id: itemId, key }] } });

export const status = () => ask("GET", "/v1/status", { patienceMs: 2_000 });

/** An idempotency key for an event. (randomUUID requires HTTPS.) */
export function newKey() {
  return Array.from(crypto.getRandomValues(new Uint8Array(16)), (byte) => byte.toString(16).padStart(2, "0")).join("");
}
