// The panel of filters: values of columns with their numbers, ranges, and an expression.

import { closeAtClickOutside } from "./dom.js";
import { formatNumber, t } from "./texts.js";

const isSheet = () => matchMedia("(max-width: 59.99rem)").matches; // over the page

export class Filters {
  // `onChange()` is called when the filters of `state` have changed.
  constructor(panel, opener, state, onChange) {
    Object.assign(this, { panel, opener, state, onChange });
    this.error = panel.querySelector("#where-error");
    this.where = panel.querySelector("#where");
    panel.addEventListener("change", (event) => this.#onInput(event, 0));
    panel.addEventListener("input", (event) => event.target.type === "number" && this.#onInput(event, 300));
    panel.querySelector("#clear-filters").addEventListener("click", () => {
      state.filters = [];
      state.options.where = "";
      this.render();
      onChange();
    });
    opener.addEventListener("click", () => this.toggle(!this.isOpen));
    panel.querySelector("#close-filters").addEventListener("click", () => this.toggle(false));
    panel.addEventListener("keydown", (event) => event.key === "Escape" && this.toggle(false));
    closeAtClickOutside(panel, () => isSheet() && this.isOpen, () => this.toggle(false));
    this.toggle(!isSheet() && localStorage.getItem("lookalike.filters") !== "closed", { quietly: true });
  }

  get isOpen() {
    return document.body.classList.contains("filters-open");
  }

  toggle(isOpen, { quietly = false } = {}) {
    document.body.classList.toggle("filters-open", isOpen);
    this.opener.setAttribute("aria-expanded", String(isOpen));
    if (quietly) return;
    try {
      localStorage.setItem("lookalike.filters", isOpen ? "open" : "closed");
    } catch {
      // the panel opens as by default next time
    }
    if (isOpen && isSheet()) this.panel.querySelector("#close-filters").focus();
    else this.opener.focus();
  }

  get count() {
    return new Set(this.state.filters.map(([name]) => name.slice(name.indexOf(":") + 1))).size + (this.state.options.where ? 1 : 0);
  }

  // Shows the state.
  render() {
    const values = new Map();
    for (const [name, value] of this.state.filters) values.set(name, [...(values.get(name) ?? []), value]);
    for (const input of this.panel.querySelectorAll("input[name]")) {
      if (input.type === "checkbox") input.checked = values.get(input.name)?.includes(input.value) ?? false;
      else if (input.name.includes(":")) input.value = values.get(input.name)?.[0] ?? "";
    }
    this.where.value = this.state.options.where ?? "";
    this.#showCount();
  }

  // Shows the numbers of items by value, of columns as the API describes them.
  showCounts(columns) {
    for (const { column, values } of columns) {
      if (!values) continue;
      const counts = new Map(values.map(([value, count]) => [String(value), count]));
      for (const label of this.panel.querySelectorAll(`[data-column="${CSS.escape(column)}"] label`)) {
        const count = counts.get(label.dataset.value) ?? 0;
        label.querySelector(".muted").textContent = formatNumber(count);
        label.classList.toggle("none", count === 0);
      }
    }
  }

  // Shows a problem of the expression at its field; returns whether it is one.
  showProblem(problem) {
    const isOurs = problem?.errors?.some(({ location }) => /\bwhere$/.test(location)) ?? false;
    this.error.hidden = !isOurs;
    this.error.textContent = isOurs ? problem.message : "";
    this.where.toggleAttribute("aria-invalid", isOurs);
    if (isOurs) {
      this.toggle(true, { quietly: true });
      this.panel.scrollTop = this.error.offsetTop + this.error.offsetHeight - this.panel.clientHeight + 16;
    }
    return isOurs;
  }

  #onInput(event, delay) {
    if (!event.target.name) return; // of a tool that is in the sheet of a phone
    clearTimeout(this.timer);
    this.#read(); // at once, since a form that is submitted shows the state
    this.#showCount();
    this.timer = setTimeout(() => this.onChange(), delay);
  }

  #read() {
    const filters = [];
    for (const input of this.panel.querySelectorAll("input[name]")) {
      if (!input.name.includes(":")) continue;
      if (input.type === "checkbox" ? input.checked : input.value.trim() && input.validity.valid) filters.push([input.name, input.value.trim()]);
    }
    this.state.filters = filters;
    this.state.options.where = this.where.value.trim();
  }

  #showCount() {
    const badge = this.opener.querySelector(".count");
    badge.textContent = this.count;
    badge.hidden = this.count === 0;
    this.panel.querySelector("#clear-filters").hidden = this.count === 0;
    this.opener.setAttribute("aria-label", t("filters-count", { n: this.count }));
  }
}
