// A box on the query image: dragged with a pointer, moved with arrow keys, or typed in pixels.

export class Cutter {
  constructor(form, changed) {
    this.fields = ["x", "y", "w", "h"].map((name) => form.querySelector(`#box-${name}`));
    this.value = form.elements.box;
    this.part = form.querySelector("#part");
    this.whole = form.querySelector("#whole");
    this.changed = changed;
    this.box = document.createElement("div");
    this.box.className = "box";
    this.box.tabIndex = 0;
    this.box.setAttribute("role", "group");
    this.box.setAttribute("aria-label", "Part of the image; arrow keys move it, with Shift they size it");
    this.box.addEventListener("keydown", (event) => this.#keyed(event));
    this.whole.addEventListener("click", () => {
      this.clear();
      changed();
    });
    for (const field of this.fields) {
      field.addEventListener("change", (event) => {
        event.stopPropagation();
        const typed = this.fields.map((each) => each.valueAsNumber);
        if (typed.every(Number.isFinite) && typed[2] > 0 && typed[3] > 0) this.#settle(typed);
      });
    }
  }

  on(frame, image) {
    this.image = image;
    this.part.hidden = false;
    frame.append(this.box);
    image.draggable = false;
    image.addEventListener("pointerdown", (event) => this.#drag(event));
    image.addEventListener("load", () => this.#draw());
    new ResizeObserver(() => this.#draw()).observe(image);
    this.#draw();
  }

  off() {
    this.clear();
    this.part.hidden = true;
  }

  clear() {
    this.value.value = "";
    this.#draw();
  }

  #now() {
    return this.value.value ? this.value.value.split(",").map(Number) : null;
  }

  #scale() {
    return this.image.naturalWidth / this.image.clientWidth;
  }

  #drag(event) {
    if (event.button !== 0) return;
    event.preventDefault();
    const area = this.image.getBoundingClientRect();
    const from = [event.clientX - area.left, event.clientY - area.top];
    const move = ({ clientX, clientY }) => {
      const to = [clientX - area.left, clientY - area.top];
      const scale = this.#scale();
      const low = from.map((each, i) => Math.min(each, to[i]) * scale);
      const high = from.map((each, i) => Math.max(each, to[i]) * scale);
      this.#put([low[0], low[1], high[0] - low[0], high[1] - low[1]]);
    };
    const up = () => {
      this.image.removeEventListener("pointermove", move);
      const [, , width, height] = this.#now() ?? [0, 0, 0, 0];
      if (Math.min(width, height) < 3 * this.#scale()) this.clear();
      this.changed();
    };
    this.image.setPointerCapture(event.pointerId);
    this.image.addEventListener("pointermove", move);
    this.image.addEventListener("pointerup", up, { once: true });
  }

  #keyed(event) {
    const step = Math.max(1, Math.round(this.image.naturalWidth / 50));
    const [dx, dy] = { ArrowLeft: [-step, 0], ArrowRight: [step, 0], ArrowUp: [0, -step], ArrowDown: [0, step] }[event.key] ?? [0, 0];
    if (event.key === "Escape" || event.key === "Delete") {
      this.clear();
      this.changed();
    }
    if (!dx && !dy) return;
    event.preventDefault();
    event.stopPropagation();
    const [x, y, w, h] = this.#now();
    this.#settle(event.shiftKey ? [x, y, w + dx, h + dy] : [x + dx, y + dy, w, h]);
  }

  #settle(box) {
    this.#put(box);
    clearTimeout(this.timer);
    this.timer = setTimeout(this.changed, 150);
  }

  #put([x, y, w, h]) {
    const { naturalWidth: wide, naturalHeight: high } = this.image;
    const left = Math.round(Math.min(Math.max(0, x), wide - 1));
    const top = Math.round(Math.min(Math.max(0, y), high - 1));
    const width = Math.round(Math.min(Math.max(1, w), wide - left));
    const height = Math.round(Math.min(Math.max(1, h), high - top));
    this.value.value = [left, top, width, height].join(",");
    this.#draw();
  }

  #draw() {
    const box = this.#now();
    this.box.hidden = this.whole.hidden = !box;
    this.fields.forEach((field, i) => (field.value = box ? box[i] : ""));
    if (!box || !this.image?.naturalWidth) return;
    const scale = this.#scale();
    const [left, top, width, height] = box.map((each) => `${each / scale}px`);
    Object.assign(this.box.style, { left, top, width, height });
  }
}
