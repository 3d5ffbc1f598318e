// Asks the gateway that served this page. The key is kept in this module's memory only.

import { words } from "./words.js";

let key = "";

export function useKey(typed) {
  key = typed.trim();
}

// What the gateway refused, in its own words where it has some.
export class Refused extends Error {
  constructor(message, status) {
    super(message);
    this.status = status;
  }
}

// Queries for what has been typed so far; none where the gateway refuses.
export async function suggestions(prefix, signal) {
  const address = new URL("v1/complete", document.baseURI);
  address.searchParams.set("prefix", prefix);
  const headers = key ? { Authorization: `Bearer ${key}` } : {};
  const response = await fetch(address, { headers, signal, credentials: "omit", redirect: "error" });
  return response.ok ? (await response.json()).suggestions.map((one) => one.text) : [];
}

export async function ask(name, body, signal) {
  const options = { headers: {}, signal, cache: "no-store", credentials: "omit", redirect: "error" };
  if (key) options.headers.Authorization = `Bearer ${key}`;
  if (body !== undefined) {
    options.method = "POST";
    options.headers["Content-Type"] = "application/json";
    options.body = JSON.stringify(body);
  }
  let response;
  try {
    response = await fetch(new URL(`playground/${name}`, document.baseURI), options);
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new Refused(words.unreachable, 0);
  }
  if (response.ok) return response.json();
  if (response.status === 401 && !key) throw new Refused(words.needsKey, 401);
  const answer = await response.json().catch(() => ({}));
  throw new Refused(typeof answer.message === "string" ? answer.message : words.failed(response.status), response.status);
}
