// The selected items of a gallery, which survive searches and reloads in this tab.

const MAX_STORED = 20_000;

export class Selection extends EventTarget {
  constructor(gallery) {
    super();
    this.key = `lookalike.selection.${gallery}`;
    this.items = new Map(); // by id
    try {
      for (const item of JSON.parse(sessionStorage.getItem(this.key) ?? "[]")) this.items.set(item.id, item);
    } catch {
      // nothing was stored, or nothing can be
    }
  }

  get size() {
    return this.items.size;
  }

  get ids() {
    return [...this.items.keys()];
  }

  has(id) {
    return this.items.has(id);
  }

  // Selects items, or takes them out of the selection.
  set(items, isSelected = true) {
    for (const { id, metadata, image_url } of items) {
      if (isSelected) this.items.set(id, { id, metadata, image_url });
      else this.items.delete(id);
    }
    this.#changed();
  }

  toggle(item) {
    this.set([item], !this.has(item.id));
  }

  clear() {
    this.items.clear();
    this.#changed();
  }

  #changed() {
    try {
      sessionStorage.setItem(this.key, JSON.stringify([...this.items.values()].slice(0, MAX_STORED)));
    } catch {
      // without storage, the selection lasts as long as the page
    }
    this.dispatchEvent(new Event("change"));
  }
}
