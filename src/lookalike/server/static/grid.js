// A grid of images of any length: only the cells in sight, and some around them, are in the page.
//
// The window scrolls. Cells are placed by their index; groups of them may have headings.

import { element } from "./dom.js";
import { formatNumber } from "./texts.js";

const GAP = 10;
const HEADING = 44;
const OVERSCAN = 600; // pixels above and below the window
const MAX_HEIGHT = 12_000_000; // what browsers lay out; a longer list is scrolled faster

export class Grid {
  // `pages` has the items; `cell` makes ({node, fill(item, {isInSight}), clear()}) from an index.
  constructor(root, { createCell, captionHeight }) {
    this.root = root;
    this.createCell = createCell;
    this.captionHeight = captionHeight;
    this.list = element("ul", { class: "grid" });
    this.cells = new Map();
    this.headings = new Map();
    this.free = [];
    this.size = 180;
    this.focused = 0;
    this.groups = null;
    this.observer = new ResizeObserver(() => this.layout());
    this.onScroll = () => this.#schedule();
    this.list.addEventListener("keydown", (event) => this.#onKeyDown(event));
    this.list.addEventListener("focusin", (event) => {
      const index = this.indexOf(event.target);
      if (index !== null) this.#setFocused(index);
    });
  }

  // Shows `pages`; `groups` are {title, count} one after the other, or null.
  show(pages, groups = null) {
    this.pages = pages;
    this.groups = groups;
    this.focused = 0;
    this.#clear();
    if (this.list.parentNode !== this.root) this.root.append(this.list);
    this.observer.observe(this.root);
    addEventListener("scroll", this.onScroll, { passive: true });
    this.layout();
  }

  hide() {
    this.#clear();
    this.list.remove();
    this.observer.disconnect();
    removeEventListener("scroll", this.onScroll);
  }

  setSize(size) {
    this.size = size;
    this.layout();
  }

  // Computes the places of all cells.
  layout() {
    const width = this.root.clientWidth;
    if (!width || !this.pages) return;
    const top = this.#topIndex();
    this.columns = Math.max(1, Math.floor((width + GAP) / (this.size + GAP)));
    this.side = (width - GAP * (this.columns - 1)) / this.columns;
    this.rowHeight = this.side + this.captionHeight() + GAP;
    let [start, y] = [0, 0];
    const counts = this.groups ?? [{ title: null, count: this.pages.total }];
    this.segments = counts.map(({ title, count }) => {
      const segment = { title, start, y, count, heading: title === null ? 0 : HEADING };
      start += count;
      y += segment.heading + Math.ceil(count / this.columns) * this.rowHeight;
      return segment;
    });
    this.fullHeight = y;
    this.height = Math.min(y, MAX_HEIGHT);
    this.list.style.height = `${this.height}px`;
    this.list.style.setProperty("--side", `${this.side}px`);
    if (this.lastSide !== undefined && this.lastSide !== this.side && top > 0) this.scrollToIndex(top);
    this.lastSide = this.side;
    this.#draw();
  }

  // Draws cells again whose items were loaded or changed.
  refresh(start = 0, stop = Infinity) {
    if (this.pages.total !== this.lastTotal) {
      this.lastTotal = this.pages.total;
      this.layout();
    }
    for (const [index, cell] of this.cells) if (index >= start && index < stop) this.#fill(cell, index);
  }

  focus(index) {
    const last = this.pages.total - 1;
    this.#setFocused(Math.max(0, Math.min(index, last)));
    const { y, height } = this.#place(this.focused);
    const [top, bottom] = [this.#listTop() + y, this.#listTop() + y + height];
    const margin = this.#stickyHeight();
    if (top < scrollY + margin) scrollTo({ top: top - margin });
    else if (bottom > scrollY + innerHeight) scrollTo({ top: bottom - innerHeight + GAP });
    this.#draw();
    this.cells.get(this.focused)?.node.querySelector(".thumbnail").focus({ preventScroll: true });
  }

  scrollToIndex(index) {
    scrollTo({ top: this.#listTop() + this.#place(index).y - this.#stickyHeight() });
  }

  indexOf(node) {
    const cell = node.closest?.(".cell");
    return cell ? Number(cell.dataset.index) : null;
  }

  get isFocusInside() {
    return this.list.contains(document.activeElement);
  }

  // ---- geometry ----------------------------------------------------------------------------

  // How far the list is scrolled for each pixel of the window: more than 1 if it is very long.
  get #speed() {
    const room = this.height - innerHeight;
    return this.height < this.fullHeight && room > 0 ? (this.fullHeight - innerHeight) / room : 1;
  }

  #listTop() {
    return this.list.getBoundingClientRect().top + scrollY;
  }

  #stickyHeight() {
    return document.querySelector(".search-bar")?.getBoundingClientRect().bottom ?? 0;
  }

  #segmentAt(test) {
    let [low, high] = [0, this.segments.length - 1];
    while (low < high) {
      const middle = (low + high + 1) >> 1;
      if (test(this.segments[middle])) low = middle;
      else high = middle - 1;
    }
    return this.segments[low];
  }

  // The place of a cell on the full height.
  #place(index) {
    const segment = this.#segmentAt((each) => each.start <= index);
    const inside = index - segment.start;
    const [row, column] = [Math.floor(inside / this.columns), inside % this.columns];
    return { x: column * (this.side + GAP), y: segment.y + segment.heading + row * this.rowHeight, height: this.rowHeight - GAP };
  }

  // The first cell of the row at a height.
  #indexAt(y) {
    const segment = this.#segmentAt((each) => each.y <= y);
    const row = Math.max(0, Math.floor((y - segment.y - segment.heading) / this.rowHeight));
    return Math.min(segment.start + row * this.columns, segment.start + segment.count);
  }

  #topIndex() {
    if (!this.segments || !this.list.isConnected) return 0;
    const scrolled = scrollY + this.#stickyHeight() - this.#listTop();
    return scrolled <= 0 ? 0 : this.#indexAt(scrolled * this.#speed);
  }

  // ---- drawing ----------------------------------------------------------------------------

  #schedule() {
    if (this.scheduled) return;
    this.scheduled = true;
    requestAnimationFrame(() => {
      this.scheduled = false;
      this.#draw();
    });
  }

  #draw() {
    if (!this.segments || !this.list.isConnected) return;
    const scrolled = scrollY - this.#listTop();
    const speed = this.#speed;
    const shift = scrolled > 0 ? scrolled - scrolled * speed : 0; // from the full height to the page's
    const first = Math.max(0, scrolled * speed - OVERSCAN);
    const last = scrolled * speed + innerHeight + OVERSCAN;
    const start = this.#indexAt(first);
    const stop = Math.min(this.pages.total, this.#indexAt(last) + this.columns);
    for (const [index, cell] of this.cells) {
      if ((index < start || index >= stop) && index !== this.#keptIndex()) this.#remove(index, cell);
    }
    this.sight = [this.#indexAt(scrolled * speed), this.#indexAt(scrolled * speed + innerHeight) + this.columns];
    for (let index = start; index < stop; index++) this.#add(index, shift);
    this.#drawHeadings(first, last, shift);
    this.pages.want(start, stop);
  }

  // The cell with the focus stays in the page, so that the focus is not lost.
  #keptIndex() {
    return this.isFocusInside ? this.focused : -1;
  }

  #add(index, shift) {
    let cell = this.cells.get(index);
    const isNew = !cell;
    if (isNew) {
      cell = this.free.pop() ?? this.createCell();
      this.cells.set(index, cell);
      cell.node.dataset.index = index;
      cell.node.setAttribute("aria-posinset", index + 1);
      this.#fill(cell, index);
    }
    const { x, y } = this.#place(index);
    cell.node.style.transform = `translate(${x}px, ${y + shift}px)`;
    cell.node.setAttribute("aria-setsize", this.pages.total);
    if (isNew) this.#insert(index, cell.node);
  }

  // Cells are in the order of their items, for keyboards and screen readers.
  #insert(index, node) {
    const before = this.cells.get(index - 1)?.node;
    const after = this.cells.get(index + 1)?.node;
    if (before?.isConnected) before.after(node);
    else if (after?.isConnected) after.before(node);
    else this.list.append(node);
  }

  #fill(cell, index) {
    const item = this.pages.item(index);
    if (item) cell.fill(item, { isInSight: this.sight[0] <= index && index < this.sight[1] });
    else cell.clear();
    cell.node.querySelector(".thumbnail").tabIndex = index === this.focused ? 0 : -1;
  }

  #drawHeadings(first, last, shift) {
    for (const segment of this.segments) {
      const isNear = segment.heading && segment.y + segment.heading >= first && segment.y <= last;
      let heading = this.headings.get(segment.start);
      if (isNear && !heading) {
        heading = element("li", { class: "group-heading", role: "presentation" }, element("h2", {}, segment.title), element("span", { class: "muted" }, formatNumber(segment.count)));
        this.headings.set(segment.start, heading);
        const next = this.cells.get(segment.start)?.node;
        if (next) next.before(heading);
        else this.list.append(heading);
      }
      if (isNear) heading.style.transform = `translateY(${segment.y + shift}px)`;
      else if (heading) {
        heading.remove();
        this.headings.delete(segment.start);
      }
    }
  }

  #remove(index, cell) {
    cell.node.remove();
    cell.clear();
    this.cells.delete(index);
    if (this.free.length < 200) this.free.push(cell);
  }

  #clear() {
    for (const [index, cell] of this.cells) this.#remove(index, cell);
    for (const heading of this.headings.values()) heading.remove();
    this.headings.clear();
    this.lastTotal = this.segments = undefined;
  }

  // ---- keyboard ----------------------------------------------------------------------------

  #setFocused(index) {
    if (index === this.focused) return;
    const last = this.cells.get(this.focused);
    if (last) last.node.querySelector(".thumbnail").tabIndex = -1;
    this.focused = index;
    const next = this.cells.get(index);
    if (next) next.node.querySelector(".thumbnail").tabIndex = 0;
  }

  #onKeyDown(event) {
    if (event.ctrlKey || event.metaKey || event.altKey || !event.target.matches(".thumbnail")) return;
    const rows = Math.max(1, Math.floor((innerHeight - this.#stickyHeight()) / this.rowHeight));
    const steps = { ArrowRight: 1, ArrowLeft: -1, ArrowDown: this.columns, ArrowUp: -this.columns, PageDown: rows * this.columns, PageUp: -rows * this.columns, Home: -Infinity, End: Infinity };
    if (!(event.key in steps)) return;
    event.preventDefault();
    this.focus(this.focused + steps[event.key]);
  }
}
