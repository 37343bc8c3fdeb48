// The HTTP client of the page: API key, errors and Retry-After.

const NAME = "lanner-key";
const PATIENCE_MS = 10_000;

/** Fires "wanted" with the error message on 401, "changed" when a key was set. */
export const key = new EventTarget();

/** A failed request. line: the error message. retryAfterS: Retry-After in seconds. */
export class ServerError extends Error {
  constructor(line, status, retryAfterS = 0) {
    super(line);
    this.status = status;
    this.retryAfterS = retryAfterS;
  }
}

/** Keep the key for this tab's session; an empty one removes it. */
export function setKey(value) {
  if (value) sessionStorage.setItem(NAME, value);
  else sessionStorage.removeItem(NAME);
  key.dispatchEvent(new Event("changed"));
}

/** Send a request and parse the response. Throws ServerError. */
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
      late ? `no response within ${patienceMs / 1000} s; the server may be overloaded` : "the server cannot be reached", 0);
  }
  if (response.ok && answer !== null) return answer;
  throw refused(response, answer);
}

function refused(response, answer) {
  const line = answer?.error ?? `the server responded with status ${response.status}`;
  if (response.status === 401) key.dispatchEvent(new CustomEvent("wanted", { detail: line }));
  return new ServerError(line, response.status, Number(response.headers.get("retry-after")) || 0);
}
