// Recent queries of a gallery, stored in this browser only.

import { element, icon } from "./dom.js";
import { itemURL, request } from "./http.js";
import { setSource } from "./images.js";
import { nameOf } from "./items.js";
import { sharedImageURL } from "./share.js";
import { readState } from "./state.js";
import { findUpload, transact } from "./storage.js";
import { t } from "./texts.js";

const MAX_ENTRIES = 12;

export class History {
  // `onSelect(search)` is called with the query string of a recent query.
  constructor(section, gallery, onSelect) {
    Object.assign(this, { section, gallery, onSelect });
    section.querySelector("button").addEventListener("click", async () => {
      for (const { key } of await this.#entries()) await transact("queries", (store) => store.delete(key));
      await this.render();
    });
  }

  // Adds a query that was answered.
  async add(search) {
    try {
      await transact("queries", (store) => store.put({ key: `${this.gallery}?${search}`, gallery: this.gallery, search, time: Date.now() }));
      for (const { key } of (await this.#entries()).slice(MAX_ENTRIES)) await transact("queries", (store) => store.delete(key));
      await this.render();
    } catch {
      // private windows may not allow storage
    }
  }

  async render() {
    const entries = await this.#entries().catch(() => []);
    const items = (await Promise.all(entries.map((entry) => this.#item(entry)))).filter(Boolean);
    this.section.hidden = items.length === 0;
    this.section.querySelector("ul").replaceChildren(...items);
  }

  // Shows a query; one of an image that is gone is forgotten.
  async #item({ key, search }) {
    const state = readState(search);
    const example = state.like[0] ?? state.unlike[0];
    const names = await Promise.all([...state.like, ...state.unlike].map(nameOfExample));
    const title = [...names, state.text].filter(Boolean).join(", ");
    const node = element("button", { type: "button", title, "aria-label": t("search-again", { query: title }) });
    const image = example && (await imageOf(example, this.gallery));
    if (example && !image && (await isGone(example, this.gallery))) {
      await transact("queries", (store) => store.delete(key));
      return null;
    }
    if (image) node.append(image);
    else node.append(element("span", {}, title || icon("search")));
    node.addEventListener("click", () => this.onSelect(search));
    return element("li", {}, node);
  }

  async #entries() {
    const all = await transact("queries", (store) => store.getAll());
    return all.filter(({ gallery }) => gallery === this.gallery).sort((a, b) => b.time - a.time);
  }
}

export async function nameOfExample({ kind, value }) {
  if (kind === "upload") return (await findUpload(value))?.name ?? t("uploaded-image");
  if (kind === "shared") return t("shared-image");
  return kind === "id" ? nameOf(value) : value;
}

// Whether the gallery, the service or this browser no longer has an example.
async function isGone({ kind, value }, gallery) {
  if (kind === "upload") return !(await findUpload(value));
  if (kind === "url") return false;
  try {
    await request(kind === "shared" ? sharedImageURL(gallery, value) : itemURL(gallery, "", value));
    return false;
  } catch (problem) {
    return problem.status === 404 || problem.status === 410;
  }
}

// An image of an example; null if this browser has none, or cannot show it.
export async function imageOf({ kind, value }, gallery) {
  const image = element("img", { alt: "", decoding: "async" });
  if (kind === "url") return null;
  const upload = kind === "upload" ? await findUpload(value) : null;
  if (kind === "upload" && !upload) return null;
  try {
    if (upload) image.src = URL.createObjectURL(upload.blob);
    else await setSource(image, kind === "shared" ? sharedImageURL(gallery, value) : `${itemURL(gallery, "/thumbnail", value)}&size=128`);
    await image.decode();
  } catch {
    return null;
  } finally {
    if (upload) URL.revokeObjectURL(image.src);
  }
  return image;
}
