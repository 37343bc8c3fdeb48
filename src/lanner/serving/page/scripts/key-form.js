// The API key form: opened by its button, or by a 401 response.

import { found, showLine } from "./elements.js";
import { key, setKey } from "./server.js";

/** Connect the form. */
export function joinKey() {
  const [form, field, button] = ["key-form", "key", "key-button"].map(found);
  const open = (opened) => {
    form.hidden = !opened;
    button.setAttribute("aria-expanded", String(opened));
    if (opened) field.focus();
  };
  button.addEventListener("click", () => open(form.hidden));
  form.addEventListener("submit", (event) => {
    event.preventDefault();
    showLine(found("key-error"), null);
    open(false);
    button.focus();
    setKey(field.value.trim());
  });
  key.addEventListener("wanted", (event) => {
    showLine(found("key-error"), event.detail);
    if (form.hidden) open(true);
  });
}
