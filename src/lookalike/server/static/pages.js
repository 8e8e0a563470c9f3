// A long list that is loaded a page at a time, where it is looked at.

const MAX_PAGES = 60; // kept; the farthest from the last one looked at are dropped
const DELAY = 40; // ms between two moves in which what is scrolled past is not loaded

export class Pages {
  // `load(offset, limit, signal)` returns {items, total} of at most `size` items;
  // `onChange(start, stop)` is called with what was loaded, `onProblem(problem)` when that failed.
  constructor({ size, load, onChange, onProblem }) {
    Object.assign(this, { size, load, onChange, onProblem });
    this.total = 0;
    this.lastWant = -Infinity;
    this.isOpen = false; // whether there are more than `total`
    this.pages = new Map();
    this.pending = new Map();
    this.controller = new AbortController();
  }

  // Loads the first page, which tells how many items there are.
  async start() {
    await this.#fetch(0);
    return this;
  }

  item(index) {
    return this.pages.get(Math.floor(index / this.size))?.[index % this.size];
  }

  // Asks for the items from `start` to `stop`.
  want(start, stop) {
    clearTimeout(this.timer);
    const wanted = [];
    for (let page = Math.floor(start / this.size); page * this.size < Math.min(stop, this.total); page++) {
      if (!this.pages.has(page) && !this.pending.has(page)) wanted.push(page);
    }
    const isScrolling = performance.now() - this.lastWant < DELAY;
    this.lastWant = performance.now();
    if (!wanted.length) return;
    const load = () => {
      this.#drop(Math.floor((start + stop) / 2 / this.size));
      for (const page of wanted) this.#fetch(page).catch((problem) => problem.name !== "AbortError" && this.onProblem(problem));
    };
    if (isScrolling) this.timer = setTimeout(load, DELAY);
    else load(); // the scroll bar was put somewhere
  }

  // Returns an item, loaded if need be; null past the end.
  async get(index) {
    if (index < 0 || index >= this.total) return null;
    const page = Math.floor(index / this.size);
    if (!this.pages.has(page)) await (this.pending.get(page) ?? this.#fetch(page));
    return this.item(index) ?? null;
  }

  // The items that are loaded, with their places.
  *loaded() {
    for (const page of [...this.pages.keys()].sort((a, b) => a - b)) {
      for (const [i, item] of this.pages.get(page).entries()) yield [page * this.size + i, item];
    }
  }

  stop() {
    clearTimeout(this.timer);
    this.controller.abort();
  }

  #fetch(page) {
    const loading = this.load(page * this.size, this.size, this.controller.signal).then(({ items, total }) => {
      this.pages.set(page, items);
      this.total = total;
      this.onChange(page * this.size, page * this.size + items.length);
    }).finally(() => this.pending.delete(page));
    this.pending.set(page, loading);
    return loading;
  }

  #drop(near) {
    if (this.pages.size <= MAX_PAGES) return;
    const far = [...this.pages.keys()].sort((a, b) => Math.abs(b - near) - Math.abs(a - near));
    for (const page of far.slice(0, this.pages.size - MAX_PAGES)) this.pages.delete(page);
  }
}
