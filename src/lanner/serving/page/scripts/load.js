// Load made by the page itself: so many requests for recommendations in flight at any time, over the example users.

import { element, found, showLine } from "./elements.js";
import { recommend } from "./operations.js";

const LEVELS = [0, 1, 4, 16, 64];
const AFTER_FAILURE_S = 1;
const REDRAW_MS = 200;

const counts = { sent: 0, answered: 0, refused: 0, failed: 0 };
const lanes = new Set();
let users = [];
let wanted = 0;

/** Draw the choice of levels. */
export function joinLoad() {
  const choices = LEVELS.map((level) => element("label", {},
    element("input", {
      type: "radio", name: "level", value: level, checked: level === 0, change: () => setLevel(level),
    }),
    element("span", {}, String(level))));
  found("load").querySelector(".levels").replaceChildren(...choices);
  setInterval(showCounts, REDRAW_MS);
  const [visit] = performance.getEntriesByType("navigation");
  if (visit?.nextHopProtocol === "http/1.1") {
    showLine(found("load-line"), "Over HTTP/1.1 a browser sends six at a time; the others wait in it.");
  }
}

/** Whom the load asks for. */
export function loadUsers(ids) {
  users = ids;
}

function setLevel(level) {
  wanted = users.length ? level : 0;
  if (level && !users.length) showLine(found("load-line"), "The server has named no example users to ask for yet.");
  for (let number = 0; number < wanted; number += 1) if (!lanes.has(number)) runLane(number);
}

async function runLane(number) {
  lanes.add(number);
  while (number < wanted) await once();
  lanes.delete(number);
}

async function once() {
  const user_id = users[Math.floor(Math.random() * users.length)];
  counts.sent += 1;
  try {
    await recommend({ user_id }, { priority: "low" });
    counts.answered += 1;
  } catch (error) {
    counts[error.status === 429 ? "refused" : "failed"] += 1;
    await new Promise((resolve) => setTimeout(resolve, (error.retryAfterS || AFTER_FAILURE_S) * 1000));
  }
}

function showCounts() {
  if (!counts.sent) return;
  const { sent, answered, refused, failed } = counts;
  const line = `${sent.toLocaleString("en")} sent · ${answered.toLocaleString("en")} answered · ` +
    `${refused.toLocaleString("en")} refused early${failed ? ` · ${failed.toLocaleString("en")} failed` : ""}`;
  if (found("load-counts").textContent !== line) found("load-counts").textContent = line;
}
