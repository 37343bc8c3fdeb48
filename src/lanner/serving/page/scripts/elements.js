// DOM helpers. Text is always set as text content, so nothing from the server is parsed as markup.

const DRAWING = "http://www.w3.org/2000/svg";

/** Create an element; a function as attribute value becomes an event listener. */
export function element(name, attributes = {}, ...children) {
  return filled(document.createElement(name), attributes, children);
}

/** Create an SVG element. */
export function drawn(name, attributes = {}, ...children) {
  return filled(document.createElementNS(DRAWING, name), attributes, children);
}

/** The element with this id. */
export function found(id) {
  return document.getElementById(id);
}

/** Show an error line; null hides it. */
export function showLine(place, line) {
  place.textContent = line ?? "";
  place.hidden = !line;
}

/** Announce a change to screen readers. */
export function announce(line) {
  found("news").textContent = line;
}

function filled(made, attributes, children) {
  for (const [name, value] of Object.entries(attributes)) {
    if (typeof value === "function") made.addEventListener(name, value);
    else if (value === true) made.setAttribute(name, "");
    else if (value !== false && value !== null && value !== undefined) made.setAttribute(name, value);
  }
  made.append(...children.filter((child) => child !== null && child !== undefined));
  return made;
}
