// Requests to the service, with the API key if there is one, and their errors.

const STORAGE_KEY = "lookalike.key";

export class Problem extends Error {
  constructor(title, detail, status = 0) {
    super(detail);
    this.title = title;
    this.status = status;
  }
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
    throw new Problem("Service unreachable", "Check that it is running and try again.");
  }
  if (!response.ok) throw await toProblem(response);
  return response;
}

export const requestJSON = async (url, options) => (await request(url, options)).json();

async function toProblem(response) {
  try {
    const { title, detail } = await response.json();
    return new Problem(title, detail, response.status);
  } catch {
    return new Problem("Unexpected response", `HTTP status ${response.status}`, response.status);
  }
}

export function itemURL(gallery, resource, id) {
  return `/v1/galleries/${encodeURIComponent(gallery)}/item${resource}?id=${encodeURIComponent(id)}`;
}

// Creates an element; its children are text or elements, never markup.
export function element(name, attributes = {}, ...children) {
  const node = document.createElement(name);
  for (const [attribute, value] of Object.entries(attributes)) node.setAttribute(attribute, value);
  node.append(...children);
  return node;
}

export function problemBox(problem) {
  const box = element("div", { class: "problem", role: "alert" });
  box.append(element("h2", {}, problem.title ?? "Something went wrong"), element("p", {}, problem.message));
  return box;
}

// Parses a page rendered by the service, which escapes all text.
export function parseHTML(html) {
  return new DOMParser().parseFromString(html, "text/html");
}

export function download(text, type, name) {
  const url = URL.createObjectURL(new Blob([text], { type }));
  element("a", { href: url, download: name }).click();
  setTimeout(() => URL.revokeObjectURL(url), 1000);
}
