// The link to what the page shows. Images of the query that only this browser has are first stored
// by the service, for as many days as it allows; without that, such a query has no link.

import { announce, confirmed } from "./dom.js";
import { requestJSON } from "./http.js";
import { writeState } from "./state.js";
import { findUpload } from "./storage.js";
import { t } from "./texts.js";

export function sharedImageURL(gallery, id) {
  return `/v1/galleries/${encodeURIComponent(gallery)}/shared-queries/${encodeURIComponent(id)}/image`;
}

export class LinkButton {
  // `days` is how long images are stored, 0 if they are not; `onShared()` is called when images of
  // `state` have become shared ones, `onProblem(problem)` when they cannot.
  constructor(node, dialog, state, { gallery, days, onShared, onProblem }) {
    Object.assign(this, { node, dialog, state, gallery, days, onShared, onProblem });
    this.link = dialog.querySelector("input");
    node.addEventListener("click", () => this.#copy());
    this.link.addEventListener("focus", () => this.link.select());
  }

  render() {
    this.node.hidden = this.#uploads.length > 0 && !this.days;
  }

  get #uploads() {
    return [...this.state.like, ...this.state.unlike].filter(({ kind }) => kind === "upload");
  }

  async #copy() {
    if (this.#uploads.length) {
      this.#show("share");
      if (!(await confirmed(this.dialog)) || !(await this.#share())) return;
    }
    const search = writeState(this.state).toString();
    const link = `${location.origin}${location.pathname}${search && `?${search}`}`;
    try {
      await navigator.clipboard.writeText(link);
      announce(t("link-copied"));
    } catch { // only pages over https, or of this machine, may use the clipboard
      this.link.value = link;
      this.#show("link");
      await confirmed(this.dialog);
    }
  }

  // Stores the images of the query; returns whether that worked.
  async #share() {
    this.node.setAttribute("aria-busy", "true");
    try {
      const ids = new Map();
      for (const { value } of this.#uploads) {
        const { blob } = (await findUpload(value)) ?? {};
        if (!blob || ids.has(value)) continue;
        const url = `/v1/galleries/${encodeURIComponent(this.gallery)}/shared-queries`;
        const headers = { "content-type": "application/octet-stream" };
        ids.set(value, (await requestJSON(url, { method: "POST", body: blob, headers })).id);
      }
      for (const example of this.#uploads) {
        if (ids.has(example.value)) Object.assign(example, { kind: "shared", value: ids.get(example.value) });
      }
      await this.onShared();
      return true;
    } catch (problem) {
      this.onProblem(problem);
      return false;
    } finally {
      this.node.removeAttribute("aria-busy");
    }
  }

  // Shows what is to be confirmed, or the link to copy by hand.
  #show(part) {
    for (const each of this.dialog.querySelectorAll("[data-part]")) each.hidden = each.dataset.part !== part;
  }
}
