// Polls the server's status once a second: charts, facts and connection state.

import { LineChart, ShareChart, SPAN_MS } from "./chart.js";
import { counted, duration } from "./numbers.js";
import { found } from "./elements.js";
import { key } from "./server.js";
import { status as askStatus } from "./operations.js";

const EVERY_MS = 1_000;

const CHARTS = [
  new LineChart("Requests", "per second", [
    { name: "all", color: "first", read: ({ recent }) => recent.requests_per_s },
    { name: "in time", color: "second", read: ({ recent }) => recent.goodput_per_s },
    { name: "rejected", color: "third", read: ({ recent }) => recent.refused_per_s },
  ]),
  new LineChart("Latency", "ms", [
    { name: "p50", color: "first", read: ({ recent }) => recent.p50_ms },
    { name: "p99", color: "third", read: ({ recent }) => recent.p99_ms },
  ]),
  new LineChart("Queue", "requests", [{ name: "waiting", color: "first", read: (status) => status.queue_depth }]),
  new ShareChart("Responses by variant", "variant", ({ recent }) => recent.by_variant, (status) => status.variants),
  new ShareChart("Responses by backend", "backend", ({ recent }) => recent.by_backend, (status) => status.backends),
];

const samples = [];
let lastHeard = null;
let underWay = false;
let waitsForKey = false;

/** Start polling; offer(status) is called when the available users, filters or texts change. */
export function watch(offer) {
  found("charts").replaceChildren(...CHARTS.map((chart) => chart.figure));
  key.addEventListener("changed", () => { waitsForKey = false; look(offer); });
  setInterval(() => look(offer), EVERY_MS);
  look(offer);
}

let offered = "";

async function look(offer) {
  // A rejected key is not sent again; the charts continue, empty.
  if (underWay || waitsForKey) return draw();
  underWay = true;
  let came = null;
  try {
    came = await askStatus();
    lastHeard = performance.now();
    showState("answering", `online · model ${came.model} · up ${duration(came.up_s)}`);
  } catch (error) {
    waitsForKey = error.status === 401 || error.status === 403;
    const silent = lastHeard === null ? "" : ` · no response for ${duration((performance.now() - lastHeard) / 1000)}`;
    showState("silent", `${error.message}${silent}`);
  }
  underWay = false;
  samples.push({ at: performance.now(), status: came });
  while (samples[0].at < performance.now() - SPAN_MS) samples.shift();
  if (came) tell(came, offer);
  draw();
}

function tell(status, offer) {
  found("facts").textContent = `${counted(status.num_items, "item")} · ${counted(status.num_users, "user")} · ` +
    `variants ${status.variants.join(" → ")} · ${status.backends.join(", ")}`;
  const { example_users, attributes, reads_texts } = status;
  const offers = JSON.stringify([example_users, attributes, reads_texts]);
  if (offers !== offered) offer(status);
  offered = offers;
}

function showState(state, line) {
  const place = found("state");
  place.dataset.state = state;
  if (place.textContent !== line) place.textContent = line;
}

function draw() {
  const now = performance.now();
  for (const chart of CHARTS) chart.draw(samples, now);
}
