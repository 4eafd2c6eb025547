/** The server's answers; asks for a token where the server wants one. */

const TOKEN = "emofilm-token";
let askForToken = async () => null;
let asking = null; // one question for all requests that wait for it

/** Set the function that asks the user for a token: async () => token. */
export function onTokenNeeded(ask) {
  askForToken = ask;
}

/** Error that the server has explained. */
export class ServerError extends Error {
  constructor(message, status) {
    super(message);
    this.status = status;
  }
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
    asking ??= askForToken(Boolean(token)).finally(() => {
      asking = null;
    });
    const given = await asking;
    if (given) {
      sessionStorage.setItem(TOKEN, given);
      return send(path, options);
    }
  }
  if (!response.ok) {
    let message = response.statusText;
    try {
      const answer = await response.json();
      message = answer.error?.message ?? answer.detail ?? message;
    } catch { /* an answer without JSON, as of a proxy */ }
    throw new ServerError(String(message), response.status);
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
