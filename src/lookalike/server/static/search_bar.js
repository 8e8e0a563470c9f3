// The search bar: words, and images as chips, which attract or repel with a weight.

import { setUpCamera } from "./camera.js";
import { button, closeAtClickOutside, element } from "./dom.js";
import { setUpDrawingPad } from "./drawing_pad.js";
import { imageOf, nameOfExample } from "./history.js";
import { itemURL, Problem } from "./http.js";
import { fetchBlob } from "./images.js";
import { RegionDialog } from "./region.js";
import { sharedImageURL } from "./share.js";
import { DEFAULT_WEIGHTS, isByWords } from "./state.js";
import { findUpload, keepUpload } from "./storage.js";
import { formatList, formatNumber, t } from "./texts.js";

const MAX_EXAMPLES = 32;
const TYPING = 300; // ms

const nameOfFile = (file) => file.name || t("pasted-image");

export class SearchBar {
  // `state` is that of the page; `onChange({replace})` is called when the query has changed,
  // `onProblem(problem)` when images cannot be used; it is to stay beside the results.
  constructor(form, state, { gallery, onChange, onProblem }) {
    Object.assign(this, { form, state, gallery, onChange, onProblem });
    this.chips = form.querySelector("#examples");
    this.text = form.elements.text;
    this.mode = form.querySelector("#by"); // of galleries whose encoder supports text
    this.popovers = [...form.querySelectorAll("[data-popover]")];
    this.region = new RegionDialog(document.querySelector("#region-dialog"), (box) => {
      this.state.options.box = box;
      this.onChange({});
    });
    this.#listen();
    this.#acceptImages();
  }

  // Shows the state.
  async render() {
    this.text.value = this.state.text;
    this.#renderMode();
    const all = ["like", "unlike"].flatMap((side) => this.state[side].map((example) => [side, example]));
    const nodes = await Promise.all(all.map(([side, example]) => this.#chip(side, example)));
    this.chips.replaceChildren(...nodes);
    this.chips.hidden = nodes.length === 0;
    this.form.querySelector("#clear").hidden = !nodes.length && !this.state.text;
  }

  // Adds an example, or makes it the only one.
  add(example, side = "like", { only = false } = {}) {
    const { state } = this;
    if (only) Object.assign(state, { like: [], unlike: [], text: "" });
    for (const each of ["like", "unlike"]) {
      state[each] = state[each].filter(({ kind, value }) => kind !== example.kind || value !== example.value);
    }
    if (state.like.length + state.unlike.length >= MAX_EXAMPLES) {
      return this.onProblem(new Problem(t("too-many-examples"), t("too-many-examples-detail", { n: MAX_EXAMPLES })));
    }
    state[side].push({ weight: DEFAULT_WEIGHTS[side], ...example });
    state.options.box = "";
    return this.onChange({});
  }

  // Searches with image files, beside or instead of the present query. Those that are too large, or
  // too many, are left out, and named.
  async addFiles(files, { only = false } = {}) {
    const { state } = this;
    const limit = Number(this.form.dataset.maxBytes);
    const tooLarge = files.filter(({ size }) => size > limit).map(nameOfFile);
    const usable = files.filter(({ size }) => size <= limit);
    const room = MAX_EXAMPLES - (only ? 0 : state.like.length + state.unlike.length);
    const details = [];
    if (tooLarge.length) details.push(t("files-too-large", { n: tooLarge.length, names: formatList(tooLarge), limit: formatNumber(limit / 1e6) }));
    if (usable.length > room) details.push(t("too-many-examples-detail", { n: MAX_EXAMPLES }));
    const added = usable.slice(0, room);
    let done;
    if (added.length) {
      if (only) Object.assign(state, { like: [], unlike: [], text: "" });
      for (const file of added) {
        const value = await keepUpload(file, nameOfFile(file));
        if (!state.like.some((each) => each.value === value)) state.like.push({ kind: "upload", value, weight: 1 });
      }
      state.options.box = "";
      done = this.onChange({});
    }
    if (details.length) this.onProblem(new Problem(t("files-left-out", { n: files.length - added.length }), details.join(" ")));
    await done;
  }

  #renderMode() {
    if (!this.mode) return;
    this.mode.value = this.state.options.by ?? "";
    this.text.placeholder = t(isByWords(this.state, true) ? "search-words" : "search-content");
  }

  #listen() {
    const { form } = this;
    form.addEventListener("submit", (event) => {
      event.preventDefault();
      clearTimeout(this.typing);
      this.state.text = this.text.value.trim();
      this.onChange({});
    });
    this.text.addEventListener("input", () => {
      clearTimeout(this.typing);
      this.typing = setTimeout(() => {
        const text = this.text.value.trim();
        if (text === this.state.text) return;
        this.state.text = text;
        this.onChange({ replace: true });
      }, TYPING);
    });
    this.mode?.addEventListener("change", () => {
      this.state.options.by = this.mode.value;
      this.#renderMode();
      if (this.state.text) this.onChange({});
    });
    form.querySelector("#clear").addEventListener("click", () => {
      Object.assign(this.state, { like: [], unlike: [], text: "" });
      this.state.options.box = "";
      this.onChange({});
      this.text.focus();
    });
    const address = form.querySelector("#url");
    const useAddress = () => {
      const value = address.value.trim();
      if (!value) return;
      address.value = "";
      this.#closePopovers();
      this.add({ kind: "url", value });
    };
    form.querySelector("#add-url")?.addEventListener("click", useAddress);
    address?.addEventListener("keydown", (event) => {
      if (event.key !== "Enter") return;
      event.preventDefault();
      useAddress();
    });
    for (const opener of this.popovers) {
      const panel = form.querySelector(`#${opener.dataset.popover}`);
      opener.addEventListener("click", () => {
        const isOpen = !panel.hidden;
        this.#closePopovers();
        panel.hidden = isOpen;
        opener.setAttribute("aria-expanded", String(!isOpen));
        if (!isOpen) panel.querySelector("input, canvas, button")?.focus();
      });
    }
    closeAtClickOutside(this.chips, () => this.#openPanel() !== null, () => this.#closePanel());
    form.addEventListener("keydown", (event) => {
      if (event.key !== "Escape") return;
      this.#closePanel()?.focus();
      this.#closePopovers()?.focus();
    });
    new ResizeObserver(() => document.documentElement.style.setProperty("--search-bar", `${form.offsetHeight}px`)).observe(form);
    setUpDrawingPad(form.querySelector("#drawing-pad"), (blob, finished) => this.#onDraw(blob, finished));
    setUpCamera(document.querySelector("#camera-dialog"), form.querySelector("#camera"), (blob) => this.addFiles([new File([blob], t("camera-file"), { type: blob.type })]));
  }

  // Closes the popover that is open; returns the button that opened it.
  #closePopovers() {
    const open = this.popovers.find((opener) => opener.getAttribute("aria-expanded") === "true");
    if (!open) return null;
    this.form.querySelector(`#${open.dataset.popover}`).hidden = true;
    open.setAttribute("aria-expanded", "false");
    return open;
  }

  // The button of the chip whose panel is open, or null.
  #openPanel() {
    return this.chips.querySelector(".chip-main[aria-expanded=true]");
  }

  // Closes the panel of a chip that is open; returns its button.
  #closePanel() {
    const open = this.#openPanel();
    if (!open) return null;
    open.parentNode.querySelector(".chip-panel").hidden = true;
    open.setAttribute("aria-expanded", "false");
    return open;
  }

  // Images that are chosen, dropped or pasted.
  #acceptImages() {
    const input = this.form.querySelector("#file");
    input.addEventListener("change", () => {
      if (input.files.length) this.addFiles([...input.files]);
      input.value = "";
    });
    const overlay = document.querySelector("#drop-overlay");
    const hasFile = (event) => [...(event.dataTransfer?.types ?? [])].some((type) => type === "Files" || type === "text/uri-list");
    let depth = 0;
    addEventListener("dragenter", (event) => {
      if (!hasFile(event)) return;
      depth += 1;
      overlay.hidden = false;
    });
    addEventListener("dragleave", () => {
      depth = Math.max(0, depth - 1);
      if (!depth) overlay.hidden = true;
    });
    addEventListener("dragover", (event) => event.preventDefault());
    addEventListener("drop", (event) => {
      event.preventDefault();
      depth = 0;
      overlay.hidden = true;
      const files = [...event.dataTransfer.files].filter((each) => each.size);
      if (files.length) this.addFiles(files, { only: true });
      else this.onProblem(new Problem(t("not-an-image"), t("not-an-image-detail")));
    });
    addEventListener("paste", (event) => {
      const files = [...event.clipboardData.files].filter((each) => each.type.startsWith("image/"));
      if (!files.length) return;
      event.preventDefault();
      this.addFiles(files);
    });
  }

  // While drawing, only the latest state is searched, one request at a time.
  async #onDraw(blob, finished) {
    this.drawing = { blob, finished };
    if (this.isDrawing) return;
    this.isDrawing = true;
    while (this.drawing) {
      const drawing = this.drawing;
      this.drawing = null;
      const value = await keepUpload(drawing.blob, t("drawing"));
      Object.assign(this.state, { like: [{ kind: "upload", value, weight: 1 }], unlike: [], text: "" });
      this.state.options.box = "";
      await this.onChange({ replace: !drawing.finished });
    }
    this.isDrawing = false;
  }

  // ---- chips ------------------------------------------------------------------------------

  async #chip(side, example) {
    const name = await nameOfExample(example);
    const image = await imageOf(example, this.gallery);
    const weight = example.weight === DEFAULT_WEIGHTS[side] ? "" : ` × ${formatNumber(example.weight)}`;
    const sign = side === "unlike" ? "−" : "";
    const panel = element("div", { class: "chip-panel", hidden: "" });
    const main = button("", () => {
      if (this.#closePanel() === main) return;
      panel.hidden = false;
      main.setAttribute("aria-expanded", "true");
    }, { class: "chip-main", "aria-expanded": "false" });
    main.replaceChildren(...(image ? [image] : []), element("span", { class: "visually-hidden" }, t(side === "like" ? "like-example" : "unlike-example")), element("span", { class: "chip-name" }, `${sign}${name}${weight}`));
    if (this.state.options.box && this.#isOnly(example)) main.append(element("span", { class: "badge" }, t("region")));
    panel.append(...this.#chipControls(side, example, Boolean(image)));
    const remove = button(t("remove-example", { name }), () => this.#remove(example), { iconName: "close", class: "chip-remove" });
    return element("li", { class: `chip ${side}` }, main, remove, panel);
  }

  #isOnly(example) {
    return this.state.like.length === 1 && !this.state.unlike.length && this.state.like[0].value === example.value;
  }

  #chipControls(side, example, hasImage) {
    const range = element("input", { type: "range", min: "0", max: "2", step: "0.1", value: example.weight });
    const output = element("output", { class: "number" }, formatNumber(example.weight));
    range.addEventListener("input", () => (output.textContent = formatNumber(range.valueAsNumber)));
    range.addEventListener("change", () => {
      example.weight = range.valueAsNumber;
      this.onChange({});
    });
    const controls = [element("label", {}, t("weight"), output, range)];
    controls.push(button(t(side === "like" ? "make-unlike" : "make-like"), () => {
      this.#remove(example, { quietly: true });
      this.add({ kind: example.kind, value: example.value }, side === "like" ? "unlike" : "like");
    }, { iconName: side === "like" ? "unlike" : "similar", showText: true }));
    if (hasImage && this.#isOnly(example)) {
      controls.push(button(t("choose-region"), () => this.#openRegion(example), { iconName: "crop", showText: true }));
    }
    return controls;
  }

  #remove(example, { quietly = false } = {}) {
    for (const side of ["like", "unlike"]) this.state[side] = this.state[side].filter((each) => each !== example);
    this.state.options.box = "";
    if (!quietly) this.onChange({});
  }

  async #openRegion({ kind, value }) {
    this.#closePanel();
    const upload = kind === "upload" ? await findUpload(value) : null;
    const url = kind === "shared" ? sharedImageURL(this.gallery, value) : itemURL(this.gallery, "/image", value);
    await this.region.open(URL.createObjectURL(upload ? upload.blob : await fetchBlob(url)), this.state.options.box);
  }
}
