// The bar with what can be done with the selected items: export, tag, remove.

import { csvTable } from "./csv.js";
import { announce, button, confirmed, download, element } from "./dom.js";
import { Problem, request, requestJSON } from "./http.js";
import { displayText } from "./items.js";
import { t } from "./texts.js";
import { Zip } from "./zip.js";

const AT_ONCE = 1_000; // items of a request
const READERS = 4; // requests at a time

export class SelectionBar {
  // `onChange()` is called when items were changed or removed, `onProblem(problem)` on failure.
  constructor(bar, selection, { gallery, onSearch, onChange, onProblem }) {
    Object.assign(this, { bar, selection, gallery, onSearch, onChange, onProblem });
    this.base = `/v1/galleries/${encodeURIComponent(gallery)}`;
    this.count = bar.querySelector(".selection-count");
    const isWritable = bar.dataset.writable === "true";
    const exports = element("details", { class: "menu" }, element("summary", { class: "button" }, t("export")));
    const menu = element("div", { class: "menu-items" });
    for (const [key, save] of [["export-csv", () => this.#saveCSV()], ["export-json", () => this.#saveJSON()], ["export-paths", () => this.#savePaths()], ["export-zip", () => this.#saveZip()]]) {
      menu.append(button(t(key), () => {
        exports.open = false;
        this.#run(save);
      }));
    }
    exports.append(menu);
    bar.querySelector(".actions").append(
      button(t("search-with-selection"), () => onSearch(selection.ids), { iconName: "similar", showText: true }),
      exports,
      ...(isWritable ? [this.#tagForm(), button(t("remove-items"), () => this.#remove(), { iconName: "trash", showText: true, class: "danger" })] : []),
      button(t("clear-selection"), () => selection.clear(), { iconName: "close" }),
    );
    selection.addEventListener("change", () => this.render());
    this.dialog = document.querySelector("#confirm-dialog");
    this.render();
  }

  render() {
    this.bar.hidden = this.selection.size === 0;
    document.body.classList.toggle("has-selection", this.selection.size > 0);
    this.count.textContent = t("selected", { n: this.selection.size });
  }

  async #run(work) {
    this.bar.setAttribute("aria-busy", "true");
    try {
      await work();
    } catch (problem) {
      this.onProblem(problem);
    } finally {
      this.bar.removeAttribute("aria-busy");
    }
  }

  #tagForm() {
    const input = element("input", { type: "text", maxlength: "200", required: "", autocomplete: "off", placeholder: t("label"), "aria-label": t("label") });
    const form = element("form", { class: "tag-form" }, input, element("button", {}, t("set-label")));
    form.addEventListener("submit", (event) => {
      event.preventDefault();
      this.#run(async () => {
        await this.#tag(input.value.trim());
        input.value = "";
      });
    });
    return form;
  }

  async #tag(label) {
    const updated = await this.#post("update", { metadata: { label } }, "updated");
    for (const item of this.selection.items.values()) delete item.metadata; // read again when needed
    announce(t("labeled", { n: updated, label }));
    this.onChange();
  }

  // The selected items with their metadata, which those from the map are without at first.
  async #items() {
    const items = [...this.selection.items.values()];
    await this.#each(items.filter(({ metadata }) => !metadata), async (item) => {
      Object.assign(item, await requestJSON(`${this.base}/item?id=${encodeURIComponent(item.id)}`));
    });
    return items;
  }

  // Does something with all selected items, and returns the sum of a field of the responses.
  async #post(action, fields, field) {
    let sum = 0;
    const { ids } = this.selection;
    for (let i = 0; i < ids.length; i += AT_ONCE) {
      const options = { method: "POST", body: JSON.stringify({ ids: ids.slice(i, i + AT_ONCE), ...fields }), headers: { "content-type": "application/json" } };
      sum += (await requestJSON(`${this.base}/items/${action}`, options))[field];
    }
    return sum;
  }

  // Does something for each of many, some at a time.
  async #each(items, work) {
    const queue = [...items];
    const worker = async () => {
      while (queue.length) await work(queue.shift());
    };
    await Promise.all(Array.from({ length: READERS }, worker));
  }

  async #remove() {
    this.dialog.querySelector("p").textContent = t("confirm-remove", { n: this.selection.size });
    if (await confirmed(this.dialog)) await this.#run(() => this.#removeAll());
  }

  async #removeAll() {
    const removed = await this.#post("delete", {}, "deleted");
    this.selection.clear();
    this.onChange();
    announce(t("removed", { n: removed }));
  }

  async #saveCSV() {
    const items = await this.#items();
    const columns = [...new Set(items.flatMap(({ metadata }) => Object.keys(metadata ?? {})))];
    const cell = (value) => (value === null || value === undefined ? "" : displayText(value));
    download(csvTable(["id", ...columns], items.map(({ id, metadata }) => [id, ...columns.map((column) => cell(metadata?.[column]))])), "text/csv", `${this.gallery}-selection.csv`);
  }

  async #saveJSON() {
    const items = (await this.#items()).map(({ id, metadata }) => ({ id, metadata }));
    download(`${JSON.stringify(items, null, 1)}\n`, "application/json", `${this.gallery}-selection.json`);
  }

  #savePaths() {
    const lines = this.selection.ids.map((id) => `${id.slice(id.indexOf(":") + 1)}\n`);
    download(lines.join(""), "text/plain", `${this.gallery}-paths.txt`);
  }

  async #saveZip() {
    const items = await this.#items();
    const zip = new Zip();
    const failures = [];
    let done = 0;
    await this.#each(items, async ({ id, image_url: url }) => {
      const path = id.slice(id.indexOf(":") + 1);
      try {
        await zip.add(path, await (await request(url)).blob());
      } catch (problem) {
        failures.push(`${path}: ${problem.message}\n`);
      }
      done += 1;
      this.count.textContent = t("packing", { done, n: items.length });
    });
    if (failures.length) await zip.add("failed.txt", new Blob(failures));
    download(zip.blob(), "application/zip", `${this.gallery}-selection.zip`);
    this.render();
    if (failures.length) this.onProblem(new Problem(t("not-packed", { n: failures.length }), failures.slice(0, 10).join(" ")));
  }
}
