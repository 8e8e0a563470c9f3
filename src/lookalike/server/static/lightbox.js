// The lightbox: one image in full, with zoom, metadata and what can be done with it.

import { announce, button, element, icon, problemBox } from "./dom.js";
import { setSource } from "./images.js";
import { displayText, nameOf } from "./items.js";
import { photoFacts } from "./photo_facts.js";
import { formatList, formatPercent, t } from "./texts.js";

const MAX_ZOOM = 16;
const STEP = 1.5;

export class Lightbox {
  // `api` reads items; `actions` has similar(item), toggle(item) and isSelected(item),
  // and unlike(item) where results can be pushed away from an item.
  constructor(dialog, api, actions) {
    Object.assign(this, { dialog, api, actions });
    this.stage = dialog.querySelector(".stage");
    this.image = element("img", { class: "full", draggable: "false" });
    this.overlay = element("div", { class: "matches", hidden: "" });
    this.side = dialog.querySelector(".facts");
    this.title = dialog.querySelector("h2");
    this.position = dialog.querySelector(".position");
    this.stage.append(this.image, this.overlay);
    this.#addButtons();
    this.#listen();
  }

  // Shows the item at an index of a list; `onClose(index)` is called with the last one shown.
  async open(pages, index, onClose) {
    Object.assign(this, { pages, index, onClose });
    if (!this.dialog.open) {
      this.dialog.showModal();
      document.documentElement.classList.add("no-scroll");
    }
    await this.#show();
  }

  get isOpen() {
    return this.dialog.open;
  }

  #addButtons() {
    const tools = this.dialog.querySelector(".lightbox-tools");
    tools.append(
      button(t("zoom-out"), () => this.#zoom(1 / STEP), { iconName: "minus" }),
      button(t("zoom-in"), () => this.#zoom(STEP), { iconName: "plus" }),
      button(t("fit-image"), () => this.#fit(), { iconName: "fit" }),
      button(t("close"), () => this.dialog.close(), { iconName: "close" }),
    );
    const at = (step) => () => this.#step(step);
    this.previous = button(t("previous-image"), at(-1), { iconName: "previous", class: "turn previous" });
    this.next = button(t("next-image"), at(1), { iconName: "next", class: "turn next" });
    this.stage.append(this.previous, this.next);
    const act = (run) => () => {
      const { item } = this;
      this.dialog.close();
      run(item);
    };
    this.select = button(t("select"), () => {
      this.actions.toggle(this.item);
      this.#showSelected();
    }, { iconName: "check", showText: true });
    this.open_ = element("a", { class: "button", target: "_blank", rel: "noopener" });
    this.open_.append(icon("open"), t("open-original"));
    this.dialog.querySelector(".item-actions").append(
      button(t("similar"), act(this.actions.similar), { iconName: "similar", showText: true, class: "primary" }),
      ...(this.actions.unlike ? [button(t("not-like-this"), act(this.actions.unlike), { iconName: "unlike", showText: true })] : []),
      this.select,
      this.open_,
      button(t("copy-path"), () => this.#copy(), { iconName: "copy", showText: true }),
    );
  }

  #listen() {
    const { dialog, stage } = this;
    dialog.addEventListener("close", () => {
      document.documentElement.classList.remove("no-scroll");
      this.onClose?.(this.index);
    });
    dialog.addEventListener("keydown", (event) => {
      if (event.ctrlKey || event.metaKey || event.altKey || event.target.matches("input")) return;
      const keys = { ArrowLeft: () => this.#step(-1), ArrowRight: () => this.#step(1), "+": () => this.#zoom(STEP), "=": () => this.#zoom(STEP), "-": () => this.#zoom(1 / STEP), 0: () => this.#fit(), x: () => this.select.click() };
      if (!(event.key in keys)) return;
      event.preventDefault();
      keys[event.key]();
    });
    stage.addEventListener("wheel", (event) => {
      event.preventDefault();
      this.#zoom(Math.exp(-event.deltaY * (event.deltaMode === 1 ? 0.05 : 0.002)), event.clientX, event.clientY);
    }, { passive: false });
    stage.addEventListener("dblclick", (event) => (this.scale > 1 ? this.#fit() : this.#zoom(3, event.clientX, event.clientY)));
    this.pointers = new Map();
    stage.addEventListener("pointerdown", (event) => {
      if (event.target.closest("button")) return;
      stage.setPointerCapture(event.pointerId);
      this.pointers.set(event.pointerId, [event.clientX, event.clientY]);
      this.moved = [0, 0];
    });
    stage.addEventListener("pointermove", (event) => this.#onMove(event));
    const onUp = (event) => {
      if (!this.pointers.delete(event.pointerId) || this.pointers.size) return;
      const [dx, dy] = this.moved;
      if (this.scale === 1 && event.pointerType === "touch" && Math.abs(dx) > 60 && Math.abs(dx) > 2 * Math.abs(dy)) this.#step(dx < 0 ? 1 : -1);
    };
    stage.addEventListener("pointerup", onUp);
    stage.addEventListener("pointercancel", onUp);
    this.image.addEventListener("load", () => {
      const { naturalWidth, naturalHeight } = this.image;
      this.image.classList.toggle("pixelated", Math.max(naturalWidth, naturalHeight) <= 128);
      stage.removeAttribute("aria-busy");
      this.#drawMatches();
    });
    new ResizeObserver(() => this.#drawMatches()).observe(stage);
    this.image.addEventListener("error", () => this.#fail({ title: t("image-missing"), message: t("image-missing-detail") }));
  }

  #onMove(event) {
    const before = this.pointers.get(event.pointerId);
    if (!before) return;
    const now = [event.clientX, event.clientY];
    if (this.pointers.size === 2) {
      const [, other] = [...this.pointers].find(([id]) => id !== event.pointerId);
      const [was, is] = [Math.hypot(before[0] - other[0], before[1] - other[1]), Math.hypot(now[0] - other[0], now[1] - other[1])];
      this.#zoom(is / Math.max(was, 1), (now[0] + other[0]) / 2, (now[1] + other[1]) / 2);
    } else {
      this.moved = [this.moved[0] + now[0] - before[0], this.moved[1] + now[1] - before[1]];
      if (this.scale > 1) this.#pan(now[0] - before[0], now[1] - before[1]);
    }
    this.pointers.set(event.pointerId, now);
  }

  async #step(step) {
    const index = this.index + step;
    if (index < 0 || index >= this.pages.total) return;
    this.index = index;
    await this.#show();
  }

  async #show() {
    const { index, pages } = this;
    this.stage.setAttribute("aria-busy", "true");
    this.stage.querySelector(".problem")?.remove();
    this.image.hidden = false;
    this.overlay.hidden = true;
    this.#fit();
    this.previous.disabled = index === 0;
    this.next.disabled = index >= pages.total - 1;
    this.position.textContent = t(pages.isOpen ? "position-open" : "position", { index: index + 1, n: pages.total });
    let item;
    try {
      item = await pages.get(index);
      if (index !== this.index || !item) return;
      this.item = item;
      this.title.textContent = this.image.alt = nameOf(item.id);
      this.open_.href = item.image_url;
      this.#showSelected();
      this.#showFacts(item, item.metadata);
      await setSource(this.image, item.image_url);
      const full = await this.api.item(item.id);
      if (index === this.index) this.#showFacts(item, full.metadata);
    } catch (problem) {
      if (index === this.index) this.#fail(problem);
    }
    const neighbor = await pages.get(index + 1).catch(() => null);
    if (neighbor) new Image().src = neighbor.image_url;
  }

  #fail(problem) {
    this.stage.removeAttribute("aria-busy");
    this.image.hidden = true;
    this.stage.querySelector(".problem")?.remove();
    this.stage.append(problemBox(problem));
  }

  #showFacts(item, metadata = {}) {
    const list = element("dl");
    const add = (name, value) => list.append(element("dt", {}, name), element("dd", {}, value));
    if (item.similarity !== undefined && item.similarity !== null) add(t("similarity"), formatPercent(item.similarity));
    if (item.distance !== undefined && item.distance !== null) add(t("distance"), item.distance.toPrecision(3));
    const { label, edited_columns: edited, ...others } = metadata;
    const isPresent = (value) => value !== null && value !== undefined;
    if (isPresent(label)) add(t("label"), displayText(label));
    const { rows, columns } = photoFacts(others);
    for (const [name, text] of rows) add(name, text);
    for (const [name, value] of Object.entries(others)) if (isPresent(value) && !columns.includes(name)) add(name, displayText(value));
    if (edited) add(t("edited-columns"), formatList(Object.keys(edited)));
    add("ID", item.id);
    this.side.replaceChildren(list);
  }

  #showSelected() {
    const isSelected = this.actions.isSelected(this.item);
    this.select.setAttribute("aria-pressed", String(isSelected));
  }

  async #copy() {
    const path = this.item.id.slice(this.item.id.indexOf(":") + 1);
    try {
      await navigator.clipboard.writeText(path);
      announce(t("copied", { text: path }));
    } catch {
      announce(t("not-copied"));
    }
  }

  // Where geometric verification found the query: points, as shares of the image's sides.
  #drawMatches() {
    const matches = this.item?.matches;
    const { naturalWidth, naturalHeight } = this.image;
    this.overlay.hidden = !matches?.length || !naturalWidth;
    if (this.overlay.hidden) return;
    const { clientWidth, clientHeight } = this.stage;
    const scale = Math.min(clientWidth / naturalWidth, clientHeight / naturalHeight);
    const [width, height] = [naturalWidth * scale, naturalHeight * scale];
    Object.assign(this.overlay.style, { width: `${width}px`, height: `${height}px`, left: `${(clientWidth - width) / 2}px`, top: `${(clientHeight - height) / 2}px` });
    this.overlay.replaceChildren(...matches.map(([x, y]) => {
      const point = element("i");
      Object.assign(point.style, { left: `${100 * x}%`, top: `${100 * y}%` });
      return point;
    }));
  }

  // ---- zoom ----------------------------------------------------------------------------------

  #fit() {
    [this.scale, this.x, this.y] = [1, 0, 0];
    this.#draw();
  }

  #zoom(factor, clientX, clientY) {
    const bounds = this.stage.getBoundingClientRect();
    const [px, py] = [(clientX ?? bounds.left + bounds.width / 2) - bounds.left - bounds.width / 2, (clientY ?? bounds.top + bounds.height / 2) - bounds.top - bounds.height / 2];
    const scale = Math.min(MAX_ZOOM, Math.max(1, this.scale * factor));
    const change = scale / this.scale;
    [this.x, this.y, this.scale] = [px - (px - this.x) * change, py - (py - this.y) * change, scale];
    if (scale === 1) [this.x, this.y] = [0, 0];
    this.#draw();
  }

  #pan(dx, dy) {
    const bounds = this.stage.getBoundingClientRect();
    const limit = (length) => (length * (this.scale - 1)) / 2;
    this.x = Math.max(-limit(bounds.width), Math.min(limit(bounds.width), this.x + dx));
    this.y = Math.max(-limit(bounds.height), Math.min(limit(bounds.height), this.y + dy));
    this.#draw();
  }

  #draw() {
    const transform = `translate(${this.x}px, ${this.y}px) scale(${this.scale})`;
    this.image.style.transform = this.overlay.style.transform = transform;
    this.stage.classList.toggle("zoomed", this.scale > 1);
  }
}
