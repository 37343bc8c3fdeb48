// Every request of the page goes through here: the key, the server's one line, and how long to wait.

const NAME = "lanner-key";
const PATIENCE_MS = 10_000;

/** Fires "wanted" with the server's line when it asks for a key, "changed" when one was given. */
export const key = new EventTarget();

/** A request that did not end well. line: the server's. retryAfterS: how long it asks to be left alone. */
export class ServerError extends Error {
  constructor(line, status, retryAfterS = 0) {
    super(line);
    this.status = status;
    this.retryAfterS = retryAfterS;
  }
}

/** Keep a key for as long as this tab lives; an empty one forgets it. */
export function setKey(value) {
  if (value) sessionStorage.setItem(NAME, value);
  else sessionStorage.removeItem(NAME);
  key.dispatchEvent(new Event("changed"));
}

/** The answer to a request. Throws ServerError. */
export async function ask(method, path, { body, priority = "high", patienceMs = PATIENCE_MS } = {}) {
  const headers = {};
  const known = sessionStorage.getItem(NAME);
  if (known) headers.authorization = `Bearer ${known}`;
  if (body) headers["content-type"] = "application/json";
  const request = { method, headers, priority, cache: "no-store", signal: AbortSignal.timeout(patienceMs) };
  if (body) request.body = JSON.stringify(body);
  let response;
  let answer;
  try {
    response = await fetch(path, request);
    answer = await response.json().catch(() => null);
  } catch (error) {
    const late = error.name === "TimeoutError";
    throw new ServerError(
      late ? `no answer within ${patienceMs / 1000} s; the server may be busy` : "the server cannot be reached", 0);
  }
  if (response.ok && answer !== null) return answer;
  throw refused(response, answer);
}

function refused(response, answer) {
  const line = answer?.error ?? `the server answered ${response.status} without a reason`;
  if (response.status === 401) key.dispatchEvent(new CustomEvent("wanted", { detail: line }));
  return new ServerError(line, response.status, Number(response.headers.get("retry-after")) || 0);
}
