// Recent queries, stored in this browser only (IndexedDB), with uploaded images.

import { element, itemURL } from "./http.js";
import { loadImages } from "./images.js";

const MAX_ENTRIES = 12;
let section, gallery, onSelect;

export function start(sectionElement, galleryName, callback) {
  [section, gallery, onSelect] = [sectionElement, galleryName, callback];
  section.querySelector("#clear-history").addEventListener("click", async () => {
    for (const { key } of await entries()) await transact((store) => store.delete(key));
    await render();
  });
  return render();
}

// Adds a query; returns the id of an uploaded image, for the page's URL.
export async function add(query) {
  try {
    const id = query.kind === "image" ? query.upload ?? (await digest(query.blob)) : `${query.kind}:${query.value}`;
    const { kind, value, blob, name } = query;
    await transact((store) => store.put({ key: `${gallery}/${id}`, gallery, kind, value, blob, name, time: Date.now() }));
    const expired = (await entries()).slice(MAX_ENTRIES);
    for (const { key } of expired) await transact((store) => store.delete(key));
    await render();
    return query.kind === "image" ? id : null;
  } catch {
    return null; // private windows may not allow storage
  }
}

export async function find(upload) {
  try {
    return (await entries()).find(({ key }) => key === `${gallery}/${upload}`);
  } catch {
    return undefined;
  }
}

async function render() {
  const recent = await entries().catch(() => []);
  section.hidden = recent.length === 0;
  section.querySelector("ul").replaceChildren(...recent.map((entry) => element("li", {}, entryButton(entry))));
  loadImages(section);
}

function entryButton(entry) {
  const name = entry.name ?? entry.value;
  const button = element("button", { type: "button", title: name, "aria-label": `Search again: ${name}` });
  if (entry.blob) {
    const image = element("img", { alt: "" });
    image.src = URL.createObjectURL(entry.blob);
    image.addEventListener("load", () => URL.revokeObjectURL(image.src), { once: true });
    image.addEventListener("error", () => image.replaceWith(element("span", {}, name.slice(0, 24))), { once: true });
    button.append(image);
  } else if (entry.kind === "id") {
    const src = `${itemURL(entry.gallery, "/thumbnail", entry.value)}&size=64`;
    button.append(element("img", { alt: "", [document.querySelector("#sign-out") ? "data-src" : "src"]: src }));
  } else {
    button.append(element("span", {}, name.slice(0, 24)));
  }
  const query = entry.blob ? { ...entry, upload: entry.key.split("/").at(-1) } : { kind: entry.kind, value: entry.value };
  button.addEventListener("click", () => onSelect(query));
  return button;
}

// The entries of this gallery, newest first.
async function entries() {
  const all = await transact((store) => store.getAll());
  return all.filter((entry) => entry.gallery === gallery).sort((a, b) => b.time - a.time);
}

let opening = null;
function openDatabase() {
  opening ??= new Promise((resolve, reject) => {
    const open = indexedDB.open("lookalike", 1);
    open.onupgradeneeded = () => open.result.createObjectStore("recent", { keyPath: "key" });
    open.onsuccess = () => resolve(open.result);
    open.onerror = () => reject(open.error);
  });
  return opening;
}

async function transact(operation) {
  const store = (await openDatabase()).transaction("recent", "readwrite").objectStore("recent");
  return new Promise((resolve, reject) => {
    const pending = operation(store);
    pending.onsuccess = () => resolve(pending.result);
    pending.onerror = () => reject(pending.error);
  });
}

async function digest(blob) {
  const bytes = new Uint8Array(await blob.arrayBuffer());
  if (!globalThis.crypto?.subtle) return String(Date.now());
  const hash = new Uint8Array(await crypto.subtle.digest("SHA-256", bytes));
  return [...hash.slice(0, 12)].map((byte) => byte.toString(16).padStart(2, "0")).join("");
}
