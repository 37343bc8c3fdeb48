// The results list: items, changes since the last event, and the two actions on an item.

import { addEvent, newKey } from "./operations.js";
import { announce, element, found, showLine } from "./elements.js";
import { bar, legend, reach } from "./contributions.js";
import { changes, markOf, told } from "./changes.js";
import { counted, decimal } from "./numbers.js";
import { servedBy } from "./served.js";
import { similarTo } from "./questions.js";

let asked = [];
let shown = [];
let latest = 0;

/** Send a query and show the response; adds it to the history for Back. Throws the request's error. */
export async function put(question, below = asked) {
  const answer = await inTime(question.ask());
  if (answer === null) return;
  asked = [...below, question];
  draw(question, answer);
  bringIntoView();
  const { variant, backend } = answer.served;
  announce(`${counted(answer.items.length, "item")}: ${question.heading}. ${variant} on ${backend}.`);
}

/** Connect the Back button. */
export function joinBack() {
  found("back").addEventListener("click", async () => {
    try {
      await put(asked.at(-2), asked.slice(0, -2));
    } catch (error) {
      showLine(found("changes"), error.message);
    }
    found("results-heading").focus();
  });
}

/** The response, or null if a later query was sent meanwhile. */
async function inTime(answer) {
  const mine = ++latest;
  const came = await answer;
  return mine === latest ? came : null;
}

function draw(question, answer, changed = null) {
  shown = answer.items;
  found("welcome").hidden = true;
  found("results-heading").textContent = question.heading;
  found("back").hidden = asked.length < 2;
  found("served").replaceChildren(...servedBy(answer));
  showLine(found("changes"), changed && told(changed));
  const scale = reach(answer.items);
  found("legend").hidden = scale === null;
  found("legend").replaceChildren(...legend(answer.items));
  const none = element("li", { class: "none" }, "No items match. Remove filters or choose another user.");
  const rows = answer.items.map((item) => row(question, item, scale, changed?.marks.get(item.item_id)));
  found("items").replaceChildren(...(rows.length ? rows : [none]));
}

function row(question, item, scale, mark) {
  const shownMark = mark === undefined ? null : markOf(mark);
  const line = element("p", { class: "error", role: "alert", hidden: true });
  const because = item.because ? element("p", { class: "because" }, item.because) : null;
  const parts = scale && item.reasons?.length ? bar(item, scale) : null;
  return element("li", { class: "item", "data-id": item.item_id, "data-mark": shownMark?.kind },
    element("span", { class: "rank figures" }, String(item.rank)),
    element("div", { class: "what" },
      element("h3", {}, item.title || item.item_id,
        shownMark && element("span", { class: "mark" }, element("span", { "aria-hidden": "true" }, shownMark.looks),
          element("span", { class: "unseen" }, ` ${shownMark.says}`))),
      because,
      element("div", { class: "foot" }, parts,
        element("div", { class: "doing" }, eventButton(question, item, line), similarButton(question, item, line))),
      line),
    element("span", { class: "score figures" }, element("span", { class: "unseen" }, "score "), decimal(item.score)));
}

function eventButton(question, item, line) {
  // One idempotency key per button: if a response is lost and the user retries, the event is stored once.
  const key = newKey();
  const button = element("button", {
    type: "button", class: "small", "aria-label": `Add event: ${item.title || item.item_id}`,
    disabled: !question.userId, title: question.userId ? null : "Choose a user first: an event belongs to a user",
  }, "Add event");
  button.addEventListener("click", () => attempt(button, line, async () => {
    await addEvent(question.userId, item.item_id, key);
    const before = shown;
    const answer = await inTime(question.ask());
    if (answer === null) return;
    const changed = changes(before, answer.items);
    draw(question, answer, changed);
    announce(told(changed));
    keepFocus(item.item_id);
  }));
  return button;
}

function similarButton(question, item, line) {
  const named = `Similar to ${item.title || item.item_id}`;
  const button = element("button", { type: "button", class: "small quiet", "aria-label": named }, "Similar");
  button.addEventListener("click", () => attempt(button, line, async () => {
    await put(similarTo(item, question.userId));
    found("results-heading").focus();
  }));
  return button;
}

async function attempt(button, line, act) {
  showLine(line, null);
  button.disabled = true;
  try {
    await act();
  } catch (error) {
    showLine(line, error.retryAfterS ? `${error.message} (retry in ${error.retryAfterS} s)` : error.message);
    setTimeout(() => { button.disabled = false; }, error.retryAfterS * 1000 || 0);
  }
}

/** On narrow screens the results are below the forms. */
function bringIntoView() {
  const { top } = found("results").getBoundingClientRect();
  if (top < 0 || top > innerHeight / 2) found("results").scrollIntoView();
}

/** The list was redrawn: focus the same item's button, or the heading. */
function keepFocus(itemId) {
  const successor = found("items").querySelector(`[data-id="${CSS.escape(itemId)}"] button`);
  (successor ?? found("results-heading")).focus();
}
