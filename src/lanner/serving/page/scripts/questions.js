// The forms. A query is {heading, userId, ask}; ask() sends the request and can be repeated.

import * as operations from "./operations.js";
import { element, found, showLine } from "./elements.js";

const EXAMPLES_SHOWN = 5;

let offeredFilters = "";

/** Connect the forms; put(query) shows the response or throws. */
export function joinForms(put) {
  found("diversity").addEventListener("input", () => {
    found("diversity-value").textContent = Number(found("diversity").value).toFixed(1);
  });
  onSubmit(found("recommend"), () => put(recommendation()));
  onSubmit(found("search"), () => put(searched()));
}

/** A query for similar items. */
export function similarTo(item, userId) {
  const heading = `Similar to ${item.title || item.item_id}`;
  return { heading, userId, ask: () => operations.similar(item.item_id, number()) };
}

/** Fill the forms from the server's status. */
export function offer(status) {
  found("users").replaceChildren(...status.example_users.map((id) => element("option", { value: id })));
  const chips = status.example_users.slice(0, EXAMPLES_SHOWN).map((id) =>
    element("button", { type: "button", class: "chip", click: () => chooseUser(id) }, id));
  found("examples").replaceChildren(...chips);
  offerFilters(status.attributes);
  const wordless = !status.reads_texts;
  for (const one of [found("text"), ...found("search").elements]) one.disabled = wordless;
  found("no-texts").hidden = !wordless;
}

/** Redrawn only when they change, to keep the selection. */
function offerFilters(attributes) {
  const said = JSON.stringify(attributes);
  if (said === offeredFilters) return;
  offeredFilters = said;
  const groups = Object.entries(attributes).map(([name, values]) => filterGroup(name, values));
  found("filters").replaceChildren(element("legend", {}, "Filters"), ...groups);
  found("filters").hidden = groups.length === 0;
}

function chooseUser(id) {
  found("user").value = id;
  found("recommend").requestSubmit();
}

function filterGroup(name, values) {
  const count = element("span", { class: "soft" });
  const boxes = values.map((value) => element("input", { type: "checkbox", name, value }));
  const recount = () => {
    const chosen = boxes.filter((box) => box.checked).length;
    count.textContent = chosen ? `${chosen} selected` : "any";
  };
  recount();
  const labels = boxes.map((box) => element("label", { class: "chip" }, box, box.value));
  return element("details", { change: recount }, element("summary", {}, `${name} `, count),
    element("div", { class: "choices", role: "group", "aria-label": name }, ...labels));
}

function chosenAttributes() {
  const attributes = {};
  for (const box of found("filters").querySelectorAll("input:checked")) (attributes[box.name] ??= []).push(box.value);
  return attributes;
}

function number() {
  return Math.round(Number(found("k").value)) || 0;
}

function recommendation() {
  const userId = found("user").value.trim();
  const text = found("text").value.trim();
  if (!userId && !text) throw new Error("enter a user, a query text, or both");
  const request = { k: number(), diversity: Number(found("diversity").value), explain: found("explain").checked };
  if (userId) request.user_id = userId;
  if (text) request.text = text;
  const attributes = chosenAttributes();
  if (Object.keys(attributes).length) request.filters = { attributes };
  const heading = [userId && `For ${userId}`, text && `“${text}”`].filter(Boolean).join(", ");
  return { heading, userId, ask: () => operations.recommend(request) };
}

function searched() {
  const words = found("words").value.trim();
  const userId = found("user").value.trim();
  const forUser = found("for-user").checked ? userId : "";
  if (!words) throw new Error("enter a query");
  if (found("for-user").checked && !userId) throw new Error("enter a user above, or search without personalisation");
  const k = number();
  const heading = `Results for “${words}”${forUser ? `, for ${forUser}` : ""}`;
  return { heading, userId, ask: () => operations.search(words, k, forUser) };
}

function onSubmit(form, send) {
  const line = form.querySelector(".error");
  const button = form.querySelector("button[type=submit]");
  form.addEventListener("submit", async (event) => {
    event.preventDefault();
    showLine(line, null);
    form.setAttribute("aria-busy", "true");
    try {
      await send();
    } catch (error) {
      showLine(line, error.retryAfterS ? `${error.message} (retry in ${error.retryAfterS} s)` : error.message);
      restrain(button, error.retryAfterS);
    } finally {
      form.removeAttribute("aria-busy");
    }
  });
}

/** Disable a button until Retry-After has passed. */
function restrain(button, seconds) {
  if (!seconds) return;
  button.disabled = true;
  setTimeout(() => { button.disabled = false; }, seconds * 1000);
}
