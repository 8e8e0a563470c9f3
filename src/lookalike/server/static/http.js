// Requests to the service, with the API key if there is one, and their errors.

import { hasText, t } from "./texts.js";

const STORAGE_KEY = "lookalike.key";

export class Problem extends Error {
  // `errors` are the fields of the request that are wrong, each with its location and message.
  constructor(title, detail, status = 0, errors = []) {
    super(detail);
    Object.assign(this, { title, status, errors });
  }

  // Whether the same request may be answered later.
  get isTemporary() {
    return this.status === 0 || this.status === 429 || this.status >= 500;
  }
}

// The problem of a request without a response.
export function unreachable() {
  return navigator.onLine ? new Problem(t("unreachable"), t("unreachable-detail")) : new Problem(t("offline"), t("offline-detail"));
}

export const apiKey = {
  get: () => sessionStorage.getItem(STORAGE_KEY),
  set: (value) => sessionStorage.setItem(STORAGE_KEY, value),
  clear: () => sessionStorage.removeItem(STORAGE_KEY),
};

// Like fetch, but with the API key, and with a Problem for every response that is not a success.
export async function request(url, options = {}) {
  const headers = new Headers(options.headers);
  if (apiKey.get()) headers.set("Authorization", `Bearer ${apiKey.get()}`);
  let response;
  try {
    response = await fetch(url, { ...options, headers });
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw unreachable();
  }
  if (!response.ok) throw await toProblem(response);
  return response;
}

export const requestJSON = async (url, options) => (await request(url, options)).json();

// The title of a problem document in the language of the page, by its type.
export function titleOf({ type, title }) {
  return hasText(typeKey(type)) ? t(typeKey(type)) : title;
}

const typeKey = (type) => `problem-${String(type).split(":").pop()}`;

async function toProblem(response) {
  try {
    const problem = await response.json();
    return new Problem(titleOf(problem), problem.detail, response.status, problem.errors);
  } catch {
    return new Problem(t("unexpected-response"), t("status", { status: response.status }), response.status);
  }
}

export function itemURL(gallery, resource, id) {
  return `/v1/galleries/${encodeURIComponent(gallery)}/item${resource}?id=${encodeURIComponent(id)}`;
}

// Parses a page rendered by the service, which escapes all text.
export function parseHTML(html) {
  return new DOMParser().parseFromString(html, "text/html");
}
