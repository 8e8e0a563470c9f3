// Adds image files to a writable gallery, several at a time, with progress; each failure is named.

import { element } from "./dom.js";
import { apiKey, Problem, titleOf, unreachable } from "./http.js";
import { formatNumber, formatPercent, t } from "./texts.js";

const AT_ONCE = 3;

// A problem with a file as one sentence, in which the name of the file is once.
function describe({ title, message }, name) {
  if (!title) return message;
  const [start, detail] = message.split(`${name}: `);
  return `${name}: ${detail ?? `${title}. ${start}`}`;
}

export class UploadDialog {
  // `onDone()` is called after files were added.
  constructor(dialog, { gallery, maxBytes, onDone }) {
    Object.assign(this, { dialog, gallery, maxBytes, onDone });
    this.list = dialog.querySelector("ul");
    this.bar = dialog.querySelector("progress");
    this.status = dialog.querySelector("[role=status]");
    const input = dialog.querySelector("input[type=file]");
    input.addEventListener("change", () => {
      this.add([...input.files]);
      input.value = "";
    });
    dialog.addEventListener("dragover", (event) => event.preventDefault());
    dialog.addEventListener("drop", (event) => {
      event.preventDefault();
      event.stopPropagation();
      this.add([...event.dataTransfer.files]);
    });
    dialog.querySelector(".close").addEventListener("click", () => dialog.close());
    dialog.addEventListener("close", () => this.done && this.onDone());
    this.#reset();
  }

  open() {
    if (!this.isRunning) this.#reset();
    this.dialog.showModal();
  }

  #reset() {
    Object.assign(this, { queue: [], total: 0, done: 0, failed: 0, sent: new Map(), running: 0 });
    this.list.replaceChildren();
    this.#render();
  }

  get isRunning() {
    return this.running > 0;
  }

  // Adds files to those that are sent.
  add(files) {
    this.queue.push(...files);
    this.total += files.length;
    while (this.running < AT_ONCE && this.queue.length) this.#work();
    this.#render();
  }

  async #work() {
    this.running += 1;
    while (this.queue.length) {
      const file = this.queue.shift();
      try {
        if (file.size > this.maxBytes) throw new Problem("", t("files-too-large", { n: 1, names: file.name, limit: formatNumber(this.maxBytes / 1e6) }));
        await this.#send(file);
        this.done += 1;
      } catch (problem) {
        this.failed += 1;
        this.list.append(element("li", {}, describe(problem, file.name)));
      }
      this.sent.delete(file);
      this.#render();
    }
    this.running -= 1;
    this.#render();
  }

  // Sends a file; fetch does not tell how far it is.
  #send(file) {
    return new Promise((resolve, reject) => {
      const sending = new XMLHttpRequest();
      sending.open("PUT", `/v1/galleries/${encodeURIComponent(this.gallery)}/item?id=${encodeURIComponent(file.webkitRelativePath || file.name)}`);
      if (apiKey.get()) sending.setRequestHeader("Authorization", `Bearer ${apiKey.get()}`);
      sending.setRequestHeader("content-type", "application/octet-stream");
      sending.upload.addEventListener("progress", ({ loaded, total }) => {
        this.sent.set(file, loaded / Math.max(1, total));
        this.#render();
      });
      sending.addEventListener("error", () => reject(unreachable()));
      sending.addEventListener("load", () => {
        if (sending.status < 300) return resolve();
        let problem = {};
        try {
          problem = JSON.parse(sending.responseText);
        } catch {
          // an answer of something between this page and the service
        }
        reject(new Problem(titleOf(problem), problem.detail ?? t("status", { status: sending.status }), sending.status));
      });
      sending.send(file);
    });
  }

  #render() {
    const partly = [...this.sent.values()].reduce((sum, share) => sum + share, 0);
    const share = this.total ? (this.done + this.failed + partly * 0.9) / this.total : 0;
    this.bar.value = share;
    this.bar.hidden = this.total === 0;
    if (!this.total) this.status.textContent = "";
    else if (this.isRunning) this.status.textContent = t("uploading", { done: this.done, n: this.total, share: formatPercent(share) });
    else this.status.textContent = [this.done || !this.failed ? t("uploaded", { n: this.done }) : "", this.failed ? t("upload-failures", { n: this.failed }) : ""].filter(Boolean).join(" ");
  }
}
