// Requests, with the API key if there is one, and their problems.

const KEY = "lookalike.key";

export class Problem extends Error {
  constructor(title, detail, status = 0) {
    super(detail);
    this.title = title;
    this.status = status;
  }
}

export const key = {
  get: () => sessionStorage.getItem(KEY),
  set: (value) => sessionStorage.setItem(KEY, value),
  forget: () => sessionStorage.removeItem(KEY),
};

export async function ask(address, options = {}) {
  const headers = new Headers(options.headers);
  if (key.get()) headers.set("Authorization", `Bearer ${key.get()}`);
  let answer;
  try {
    answer = await fetch(address, { ...options, headers });
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new Problem("The service cannot be reached", "Is it still running? Try again in a moment.");
  }
  if (!answer.ok) throw await problemOf(answer);
  return answer;
}

async function problemOf(answer) {
  try {
    const found = await answer.json();
    return new Problem(found.title, found.detail, answer.status);
  } catch {
    return new Problem("The service did not answer", `It said ${answer.status}.`, answer.status);
  }
}

export function address(gallery, what, id) {
  return `/v1/galleries/${encodeURIComponent(gallery)}/item${what}?id=${encodeURIComponent(id)}`;
}

// Elements made from text, never from markup.
export function element(name, attributes = {}, ...children) {
  const made = document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  made.append(...children);
  return made;
}

export function problemBox(problem) {
  const box = element("div", { class: "problem", role: "alert" });
  box.append(element("h2", {}, problem.title ?? "Something went wrong"), element("p", {}, problem.message));
  return box;
}

// A page or a part of one that the service made, where every text was escaped.
export function parsed(html) {
  return new DOMParser().parseFromString(html, "text/html");
}
