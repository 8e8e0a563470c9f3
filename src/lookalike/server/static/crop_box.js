// A crop box on the query image: dragged with a pointer, moved with arrow keys, or typed in pixels.

export class CropBox {
  // `onChange` is called when the user has changed the box.
  constructor(form, onChange) {
    this.fields = ["x", "y", "w", "h"].map((name) => form.querySelector(`#box-${name}`));
    this.input = form.elements.box;
    this.panel = form.querySelector("#crop");
    this.resetButton = form.querySelector("#reset-crop");
    this.onChange = onChange;
    this.overlay = document.createElement("div");
    this.overlay.className = "crop-box";
    this.overlay.tabIndex = 0;
    this.overlay.setAttribute("role", "group");
    this.overlay.setAttribute("aria-label", "Crop box; move it with the arrow keys, resize it with Shift and arrow keys");
    this.overlay.addEventListener("keydown", (event) => this.#onKeyDown(event));
    this.resetButton.addEventListener("click", () => {
      this.clear();
      onChange();
    });
    for (const field of this.fields) {
      field.addEventListener("change", (event) => {
        event.stopPropagation();
        const values = this.fields.map((each) => each.valueAsNumber);
        if (values.every(Number.isFinite) && values[2] > 0 && values[3] > 0) this.#setAndNotify(values);
      });
    }
  }

  enable(frame, image) {
    this.image = image;
    this.panel.hidden = false;
    frame.append(this.overlay);
    image.draggable = false;
    image.addEventListener("pointerdown", (event) => this.#onPointerDown(event));
    image.addEventListener("load", () => this.#draw());
    new ResizeObserver(() => this.#draw()).observe(image);
    this.#draw();
  }

  disable() {
    this.clear();
    this.panel.hidden = true;
  }

  clear() {
    this.input.value = "";
    this.#draw();
  }

  #box() {
    return this.input.value ? this.input.value.split(",").map(Number) : null;
  }

  // Image pixels per pixel on the screen.
  #scale() {
    return this.image.naturalWidth / this.image.clientWidth;
  }

  #onPointerDown(event) {
    if (event.button !== 0) return;
    event.preventDefault();
    const bounds = this.image.getBoundingClientRect();
    const start = [event.clientX - bounds.left, event.clientY - bounds.top];
    const onMove = ({ clientX, clientY }) => {
      const end = [clientX - bounds.left, clientY - bounds.top];
      const scale = this.#scale();
      const [left, top] = start.map((value, axis) => Math.min(value, end[axis]) * scale);
      const [right, bottom] = start.map((value, axis) => Math.max(value, end[axis]) * scale);
      this.#set([left, top, right - left, bottom - top]);
    };
    const onUp = () => {
      this.image.removeEventListener("pointermove", onMove);
      const [, , width, height] = this.#box() ?? [0, 0, 0, 0];
      if (Math.min(width, height) < 3 * this.#scale()) this.clear();
      this.onChange();
    };
    this.image.setPointerCapture(event.pointerId);
    this.image.addEventListener("pointermove", onMove);
    this.image.addEventListener("pointerup", onUp, { once: true });
  }

  #onKeyDown(event) {
    const step = Math.max(1, Math.round(this.image.naturalWidth / 50));
    const [dx, dy] = { ArrowLeft: [-step, 0], ArrowRight: [step, 0], ArrowUp: [0, -step], ArrowDown: [0, step] }[event.key] ?? [0, 0];
    if (event.key === "Escape" || event.key === "Delete") {
      this.clear();
      this.onChange();
    }
    if (!dx && !dy) return;
    event.preventDefault();
    event.stopPropagation();
    const [x, y, width, height] = this.#box();
    this.#setAndNotify(event.shiftKey ? [x, y, width + dx, height + dy] : [x + dx, y + dy, width, height]);
  }

  #setAndNotify(box) {
    this.#set(box);
    clearTimeout(this.timer);
    this.timer = setTimeout(this.onChange, 150);
  }

  // Sets the box, clipped to the image.
  #set([x, y, width, height]) {
    const { naturalWidth, naturalHeight } = this.image;
    const left = Math.round(Math.min(Math.max(0, x), naturalWidth - 1));
    const top = Math.round(Math.min(Math.max(0, y), naturalHeight - 1));
    const clippedWidth = Math.round(Math.min(Math.max(1, width), naturalWidth - left));
    const clippedHeight = Math.round(Math.min(Math.max(1, height), naturalHeight - top));
    this.input.value = [left, top, clippedWidth, clippedHeight].join(",");
    this.#draw();
  }

  #draw() {
    const box = this.#box();
    this.overlay.hidden = this.resetButton.hidden = !box;
    this.fields.forEach((field, i) => (field.value = box ? box[i] : ""));
    if (!box || !this.image?.naturalWidth) return;
    const scale = this.#scale();
    const [left, top, width, height] = box.map((value) => `${value / scale}px`);
    Object.assign(this.overlay.style, { left, top, width, height });
  }
}
