// Recent queries, kept in this browser only: images in a small database of its own.

import { address, element } from "./http.js";
import { show } from "./pictures.js";

const MOST = 12;
let box, gallery, put;

export function start(section, name, ask) {
  [box, gallery, put] = [section, name, ask];
  section.querySelector("#forget").addEventListener("click", async () => {
    for (const each of await all()) await change((kept) => kept.delete(each.key));
    await list();
  });
  return list();
}

// Keep a query; return its key if it is an image, for the page's address.
export async function remember(gallery, query) {
  try {
    const key = query.kind === "image" ? query.local ?? (await digest(query.blob)) : `${query.kind}:${query.value}`;
    const { kind, value, blob, name } = query;
    await change((kept) => kept.put({ key: `${gallery}/${key}`, gallery, kind, value, blob, name, time: Date.now() }));
    const old = (await all()).slice(MOST);
    for (const each of old) await change((kept) => kept.delete(each.key));
    await list();
    return query.kind === "image" ? key : null;
  } catch {
    return null; // private windows may keep nothing
  }
}

export async function find(local) {
  try {
    return (await all()).find((each) => each.key === `${gallery}/${local}`);
  } catch {
    return undefined;
  }
}

async function list() {
  const kept = await all().catch(() => []);
  box.hidden = kept.length === 0;
  box.querySelector("ul").replaceChildren(...kept.map((each) => element("li", {}, entry(each))));
  show(box);
}

function entry(each) {
  const name = each.name ?? each.value;
  const button = element("button", { type: "button", title: name, "aria-label": `Ask again: ${name}` });
  if (each.blob) {
    const image = element("img", { alt: "" });
    image.src = URL.createObjectURL(each.blob);
    image.addEventListener("load", () => URL.revokeObjectURL(image.src), { once: true });
    button.append(image);
  } else if (each.kind === "id") {
    const src = `${address(each.gallery, "/thumbnail", each.value)}&side=64`;
    button.append(element("img", { alt: "", [document.querySelector("#sign-out") ? "data-src" : "src"]: src }));
  } else {
    button.append(element("span", {}, name.slice(0, 24)));
  }
  button.addEventListener("click", () => put(each.blob ? { ...each, local: each.key.split("/").at(-1) } : { kind: each.kind, value: each.value }));
  return button;
}

// Newest first, of this gallery.
async function all() {
  const kept = await change((store) => store.getAll());
  return kept.filter((each) => each.gallery === gallery).sort((a, b) => b.time - a.time);
}

let opened = null;
function database() {
  opened ??= new Promise((resolve, reject) => {
    const request = indexedDB.open("lookalike", 1);
    request.onupgradeneeded = () => request.result.createObjectStore("recent", { keyPath: "key" });
    request.onsuccess = () => resolve(request.result);
    request.onerror = () => reject(request.error);
  });
  return opened;
}

async function change(work) {
  const store = (await database()).transaction("recent", "readwrite").objectStore("recent");
  return new Promise((resolve, reject) => {
    const request = work(store);
    request.onsuccess = () => resolve(request.result);
    request.onerror = () => reject(request.error);
  });
}

async function digest(blob) {
  const bytes = new Uint8Array(await blob.arrayBuffer());
  if (!globalThis.crypto?.subtle) return String(Date.now());
  const hash = new Uint8Array(await crypto.subtle.digest("SHA-256", bytes));
  return [...hash.slice(0, 12)].map((each) => each.toString(16).padStart(2, "0")).join("");
}
