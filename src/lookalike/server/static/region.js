// A dialog to choose the part of a query image that counts: dragged, moved by keys, or in pixels.

import { element } from "./dom.js";
import { t } from "./texts.js";

export class RegionDialog {
  // `onChange(box)` is called with "x,y,width,height" in pixels of the image, or "" for all of it.
  constructor(dialog, onChange) {
    this.dialog = dialog;
    this.onChange = onChange;
    this.frame = dialog.querySelector(".region-frame");
    this.fields = ["x", "y", "w", "h"].map((name) => dialog.querySelector(`#box-${name}`));
    this.overlay = element("div", { class: "crop-box", tabindex: "0", role: "group", "aria-label": t("crop-box") });
    this.overlay.addEventListener("keydown", (event) => this.#onKeyDown(event));
    dialog.querySelector("#whole-image").addEventListener("click", () => this.#set(null));
    dialog.querySelector("#apply-region").addEventListener("click", () => {
      dialog.close();
      this.onChange(this.box ? this.box.join(",") : "");
    });
    dialog.querySelector("#close-region").addEventListener("click", () => dialog.close());
    for (const field of this.fields) field.addEventListener("change", () => this.#onField());
  }

  // Shows an image by its URL, and a box on it.
  async open(src, box) {
    this.image = element("img", { alt: t("query-image"), draggable: "false" });
    this.image.src = src;
    this.frame.replaceChildren(this.image, this.overlay);
    this.dialog.showModal();
    await this.image.decode();
    this.image.addEventListener("pointerdown", (event) => this.#onPointerDown(event));
    new ResizeObserver(() => this.#draw()).observe(this.image);
    this.#set(box ? box.split(",").map(Number) : null);
  }

  // Image pixels for each pixel of the page.
  get #scale() {
    return this.image.naturalWidth / this.image.clientWidth;
  }

  #onField() {
    const values = this.fields.map((field) => field.valueAsNumber);
    if (values.every(Number.isFinite) && values[2] > 0 && values[3] > 0) this.#set(values);
  }

  #onPointerDown(event) {
    if (event.button !== 0) return;
    event.preventDefault();
    const bounds = this.image.getBoundingClientRect();
    const at = ({ clientX, clientY }) => [clientX - bounds.left, clientY - bounds.top];
    const start = at(event);
    const onMove = (move) => {
      const end = at(move);
      const [left, top] = start.map((value, axis) => Math.min(value, end[axis]) * this.#scale);
      const [right, bottom] = start.map((value, axis) => Math.max(value, end[axis]) * this.#scale);
      this.#set([left, top, right - left, bottom - top]);
    };
    const onUp = () => {
      this.image.removeEventListener("pointermove", onMove);
      if (this.box && Math.min(this.box[2], this.box[3]) < 3 * this.#scale) this.#set(null);
    };
    this.image.setPointerCapture(event.pointerId);
    this.image.addEventListener("pointermove", onMove);
    this.image.addEventListener("pointerup", onUp, { once: true });
  }

  #onKeyDown(event) {
    const step = Math.max(1, Math.round(this.image.naturalWidth / 50));
    const [dx, dy] = { ArrowLeft: [-step, 0], ArrowRight: [step, 0], ArrowUp: [0, -step], ArrowDown: [0, step] }[event.key] ?? [0, 0];
    if (event.key === "Delete") this.#set(null);
    if (!dx && !dy) return;
    event.preventDefault();
    const [x, y, width, height] = this.box;
    this.#set(event.shiftKey ? [x, y, width + dx, height + dy] : [x + dx, y + dy, width, height]);
  }

  // Sets the box, clipped to the image.
  #set(box) {
    if (box) {
      const { naturalWidth, naturalHeight } = this.image;
      const [x, y, width, height] = box.map(Math.round);
      const left = Math.min(Math.max(0, x), naturalWidth - 1);
      const top = Math.min(Math.max(0, y), naturalHeight - 1);
      box = [left, top, Math.min(Math.max(1, width), naturalWidth - left), Math.min(Math.max(1, height), naturalHeight - top)];
    }
    this.box = box;
    this.#draw();
  }

  #draw() {
    this.overlay.hidden = !this.box;
    this.fields.forEach((field, i) => (field.value = this.box ? this.box[i] : ""));
    if (!this.box || !this.image.clientWidth) return;
    const [left, top, width, height] = this.box.map((value) => `${value / this.#scale}px`);
    Object.assign(this.overlay.style, { left, top, width, height });
  }
}
