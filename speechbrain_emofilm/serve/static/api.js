/** The server's answers; asks for a token where the server wants one. */

const TOKEN = "emofilm-token";
let askForToken = async () => null;
let asking = null; // one question for all requests that wait for it

const SENDABLE = /^[!-~]+$/; // what a header can hold

/** Take a token out of the address, where it was brought as #token=. */
export function adoptToken() {
  const query = new URLSearchParams(location.hash.slice(1));
  const token = query.get("token");
  if (token === null) return;
  query.delete("token");
  history.replaceState(null, "", `#${query}`);
  if (SENDABLE.test(token)) sessionStorage.setItem(TOKEN, token);
}

async function ask(refused) {
  let given = (await askForToken(refused))?.trim();
  while (given && !SENDABLE.test(given)) given = (await askForToken(true))?.trim();
  return given;
}

/** Set the function that asks the user for a token: async () => token. */
export function onTokenNeeded(ask) {
  askForToken = ask;
}

/** Error that the server has explained. */
export class ServerError extends Error {
  constructor(message, status, { code = null, values = {} } = {}) {
    super(message);
    Object.assign(this, { status, code, values });
  }
}

function explained({ message, ...details }, status) {
  return new ServerError(String(message), status, details);
}

async function send(path, options, mayAsk = true) {
  const headers = new Headers(options.headers);
  const token = sessionStorage.getItem(TOKEN);
  if (token) headers.set("Authorization", `Bearer ${token}`);
  let response;
  try {
    response = await fetch(path, { ...options, headers });
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new ServerError(null, 0);
  }
  if (response.status === 401 && mayAsk) {
    const known = sessionStorage.getItem(TOKEN);
    if (known !== token) return send(path, options);
    asking ??= ask(Boolean(token)).finally(() => {
      asking = null;
    });
    const given = await asking;
    if (given) {
      sessionStorage.setItem(TOKEN, given);
      return send(path, options);
    }
  }
  if (!response.ok) {
    let error = { message: response.statusText };
    try {
      error = (await response.json()).error ?? error;
    } catch { /* an answer without JSON, as of a proxy */ }
    throw explained(error, response.status);
  }
  return response;
}

export async function get(path) {
  return (await send(path, {})).json();
}

export async function post(path, body, signal) {
  const response = await send(path, {
    method: "POST",
    headers: { "Content-Type": "application/json" },
    body: JSON.stringify(body),
    signal,
  });
  return response.json();
}

/** Post JSON, get an answer in parts: {type: "audio" and others, ...}. */
export async function* postForParts(path, body, signal) {
  const response = await send(path, {
    method: "POST",
    headers: { "Content-Type": "application/json" },
    body: JSON.stringify(body),
    signal,
  });
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  let text = "";
  try {
    for (;;) {
      const { done, value } = await reader.read();
      if (done) return;
      const events = (text + value).split("\n\n");
      text = events.pop();
      for (const event of events) {
        const content = JSON.parse(event.replace(/^data: /, ""));
        if (content.type === "error") throw explained(content.error, 0);
        yield content;
      }
    }
  } catch (error) {
    if (error instanceof TypeError) throw new ServerError(null, 0);
    throw error;
  } finally {
    reader.cancel().catch(() => { /* it has ended */ });
  }
}

/** Post JSON, get a file's text. */
export async function postForText(path, body) {
  const response = await send(path, {
    method: "POST",
    headers: { "Content-Type": "application/json" },
    body: JSON.stringify(body),
  });
  return response.text();
}

/** Post a form with files. */
export async function postForm(path, fields) {
  const form = new FormData();
  for (const [name, value] of Object.entries(fields)) {
    if (value) form.append(name, value);
  }
  return (await send(path, { method: "POST", body: form })).json();
}

/** Bytes of base64. */
export function bytes(base64) {
  return Uint8Array.from(atob(base64), letter => letter.charCodeAt(0));
}
