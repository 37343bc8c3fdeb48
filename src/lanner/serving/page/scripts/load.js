// A load generator: a fixed number of concurrent recommendation requests over the example users.

import { element, found, showLine } from "./elements.js";
import { recommend } from "./operations.js";

const LEVELS = [0, 1, 4, 16, 64];
const AFTER_FAILURE_S = 1;
const REDRAW_MS = 200;

const counts = { sent: 0, answered: 0, refused: 0, failed: 0 };
const workers = new Set();
let users = [];
let wanted = 0;

/** Draw the load levels. */
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
    showLine(found("load-line"), "HTTP/1.1: the browser sends at most six requests at a time.");
  }
}

/** Set the users of the requests. */
export function loadUsers(ids) {
  users = ids;
}

function setLevel(level) {
  wanted = users.length ? level : 0;
  if (level && !users.length) showLine(found("load-line"), "No example users yet.");
  for (let number = 0; number < wanted; number += 1) if (!workers.has(number)) runWorker(number);
}

async function runWorker(number) {
  workers.add(number);
  while (number < wanted) await once();
  workers.delete(number);
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
    `${refused.toLocaleString("en")} rejected${failed ? ` · ${failed.toLocaleString("en")} failed` : ""}`;
  if (found("load-counts").textContent !== line) found("load-counts").textContent = line;
}
