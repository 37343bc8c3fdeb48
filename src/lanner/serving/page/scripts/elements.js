// Elements made and found; text is always set as text, so nothing that the server sends is read as markup.

const DRAWING = "http://www.w3.org/2000/svg";

/** An element; an attribute whose value is a function listens to the event of that name. */
export function element(name, attributes = {}, ...children) {
  return filled(document.createElement(name), attributes, children);
}

/** An element of a drawing. */
export function drawn(name, attributes = {}, ...children) {
  return filled(document.createElementNS(DRAWING, name), attributes, children);
}

/** The element of this id. */
export function found(id) {
  return document.getElementById(id);
}

/** A line where something went wrong; none hides it. */
export function showLine(place, line) {
  place.textContent = line ?? "";
  place.hidden = !line;
}

/** Say something to whoever does not see the page change. */
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
