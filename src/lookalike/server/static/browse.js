// The main view: a gallery as a grid, in an order or ranked by a query.

import { API, withImages } from "./api.js";
import { announce, button, element, problemBox } from "./dom.js";
import { Filters } from "./filters.js";
import { Grid } from "./grid.js";
import { History } from "./history.js";
import { Problem } from "./http.js";
import { cellFactory, displayText, nameOf } from "./items.js";
import { Lightbox } from "./lightbox.js";
import { Pages } from "./pages.js";
import { SearchBar } from "./search_bar.js";
import { Selection } from "./selection.js";
import { SelectionBar } from "./selection_bar.js";
import { LinkButton } from "./share.js";
import { hasExamples, isByWords, isSearch, readState, writeState } from "./state.js";
import { keepUpload } from "./storage.js";
import { formatMonth, formatPercent, t } from "./texts.js";
import { UploadDialog } from "./upload_dialog.js";

const SIZES = [88, 120, 160, 210, 280, 380]; // of cells, in pixels
const DEFAULT_SIZE = 2;

export function start(main) {
  return new Browser(main).start();
}

function dismissable(box) {
  box.append(button(t("close"), () => box.remove(), { iconName: "close", class: "dismiss" }));
  return box;
}

class Browser {
  constructor(main) {
    this.main = main;
    this.gallery = main.dataset.gallery;
    this.info = JSON.parse(document.querySelector("#gallery-facts").textContent);
    this.state = readState(location.search);
    this.results = main.querySelector("#results");
    this.form = main.querySelector("#search-form");
    this.count = main.querySelector("#count");
    this.notices = main.querySelector("#notices");
    const kinds = new Map(this.info.columns.map(({ column, kind }) => [column, kind]));
    this.first = this.readFirstPage();
    this.api = new API(this.gallery, { kinds, supportsText: this.info.supports_text });
    this.selection = new Selection(this.gallery);
    this.selection.addEventListener("change", () => this.panes.forEach(({ grid }) => grid.refresh()));
    this.panes = [];
    this.controller = null;
  }

  async start() {
    const { main, form, state } = this;
    const onProblem = (problem) => this.showNotice(problem);
    this.searchBar = new SearchBar(form, state, { gallery: this.gallery, onChange: (how) => this.onQuery(how), onProblem });
    this.filters = new Filters(main.querySelector("#filters"), main.querySelector("#open-filters"), state, () => this.run());
    this.link = new LinkButton(main.querySelector("#copy-link"), main.querySelector("#share-dialog"), state, {
      gallery: this.gallery,
      days: this.info.share_days,
      onShared: () => this.run({ replace: true }),
      onProblem,
    });
    this.history = new History(main.querySelector("#history"), this.gallery, (search) => this.goTo(search));
    this.lightbox = new Lightbox(main.querySelector("#lightbox"), this.api, {
      similar: (item) => this.searchSimilar(item),
      unlike: (item) => this.searchBar.add({ kind: "id", value: item.id }, "unlike"),
      toggle: (item) => this.selection.toggle(item),
      isSelected: (item) => this.selection.has(item.id),
    });
    new SelectionBar(main.querySelector("#selection-bar"), this.selection, {
      gallery: this.gallery,
      onSearch: (ids) => this.searchSelection(ids),
      onChange: () => this.runAgain(),
      onProblem,
    });
    const uploads = main.querySelector("#upload-dialog");
    if (uploads) {
      const dialog = new UploadDialog(uploads, { gallery: this.gallery, maxBytes: Number(form.dataset.maxBytes), onDone: () => this.runAgain() });
      main.querySelector("#open-upload").addEventListener("click", () => dialog.open());
    }
    this.setUpToolbar();
    addEventListener("popstate", () => this.goTo(location.search, { push: false }));
    addEventListener("keydown", (event) => this.onKeyDown(event));
    addEventListener("online", () => this.isOffline && this.runAgain());
    await Promise.all([this.run({ push: false, remember: true }), this.history.render().catch(() => {})]);
  }

  // ---- toolbar ------------------------------------------------------------------------------

  setUpToolbar() {
    const { main, state } = this;
    for (const name of ["sort", "group", "metric", "rerank", "compare"]) {
      main.querySelector(`#${name}`)?.addEventListener("change", ({ target }) => {
        state.options[name] = target.value;
        this.run();
      });
    }
    for (const name of ["foreground", "multi_crop"]) {
      main.querySelector(`#${name}`).addEventListener("change", ({ target }) => {
        state.options[name] = target.checked ? "true" : "";
        this.run();
      });
    }
    const threshold = main.querySelector("#threshold");
    const output = main.querySelector("#threshold-value");
    threshold.addEventListener("input", () => (output.textContent = formatPercent(threshold.valueAsNumber / 100)));
    threshold.addEventListener("change", () => {
      state.options.min_similarity = threshold.value === "0" ? "" : String(threshold.valueAsNumber / 100);
      this.run();
    });
    this.placeTools();
    const density = main.querySelector("#density");
    density.max = String(SIZES.length - 1);
    density.value = localStorage.getItem("lookalike.density") ?? String(DEFAULT_SIZE);
    density.addEventListener("input", () => {
      try {
        localStorage.setItem("lookalike.density", density.value);
      } catch {
        // the size is the default one next time
      }
      for (const { grid } of this.panes) grid.setSize(this.cellSize());
    });
  }

  // On a phone, what is seldom needed is in the sheet of the filters, so that results come first.
  placeTools() {
    const tools = [...this.main.querySelectorAll(".toolbar > .tools, .density")];
    const [toolbar, sheet] = [this.main.querySelector(".toolbar"), this.main.querySelector("#sheet-tools")];
    const wide = matchMedia("(min-width: 60rem)");
    const place = () => {
      if (wide.matches) this.main.querySelector("#count").after(...tools);
      else sheet.append(...tools);
      toolbar.classList.toggle("compact", !wide.matches);
    };
    wide.addEventListener("change", place);
    place();
  }

  cellSize() {
    const size = SIZES[Number(this.main.querySelector("#density").value)] ?? SIZES[DEFAULT_SIZE];
    return Math.min(size, Math.max(88, (innerWidth - 60) / 2));
  }

  renderToolbar() {
    const { main, state } = this;
    const search = isSearch(state);
    this.link.render();
    for (const name of ["sort", "group", "metric", "rerank", "compare"]) {
      const select = main.querySelector(`#${name}`);
      if (select) select.value = state.options[name] ?? "";
    }
    main.querySelector("#sort").disabled = Boolean(state.options.group);
    main.querySelector("#list-tools").hidden = search;
    main.querySelector("#rank-tools").hidden = !search || (!hasExamples(state) && isByWords(state, this.info.supports_text));
    for (const name of ["foreground", "multi_crop"]) main.querySelector(`#${name}`).checked = Boolean(state.options[name]);
    const threshold = Math.round(100 * Number(state.options.min_similarity || 0));
    main.querySelector("#threshold").value = String(threshold);
    main.querySelector("#threshold-value").textContent = formatPercent(threshold / 100);
  }

  // ---- queries ------------------------------------------------------------------------------

  onQuery({ replace = false } = {}) {
    scrollTo({ top: 0 });
    this.notices.replaceChildren();
    return this.run({ replace, remember: !replace });
  }

  searchSimilar(item) {
    return this.searchBar.add({ kind: "id", value: item.id }, "like", { only: true });
  }

  searchSelection(ids) {
    Object.assign(this.state, { like: ids.slice(0, 32).map((value) => ({ kind: "id", value, weight: 1 })), unlike: [], text: "" });
    this.state.options.box = "";
    return this.onQuery();
  }

  // Shows the state of a query string.
  goTo(search, { push = true } = {}) {
    Object.assign(this.state, readState(search));
    return this.run({ push });
  }

  // Searches or lists again, and stays where it is.
  runAgain() {
    return this.run({ push: false, stay: true });
  }

  // Searches or lists, and shows the results when the first ones are there.
  async run({ push = true, replace = false, remember = false, stay = false } = {}) {
    this.controller?.abort();
    const controller = (this.controller = new AbortController());
    this.filters.render();
    this.renderToolbar();
    const shown = this.searchBar.render();
    const busy = setTimeout(() => this.results.setAttribute("aria-busy", "true"), 150);
    try {
      await shown;
      const panes = await this.load(controller.signal);
      if (controller.signal.aborted) return;
      const top = scrollY;
      this.show(panes);
      if (stay) scrollTo({ top });
      this.updateURL({ push, replace });
      this.filters.showProblem(null);
      if (remember && isSearch(this.state)) this.history.add(writeState(this.state).toString());
      this.isOffline = false;
    } catch (problem) {
      if (problem.name === "AbortError" || controller.signal.aborted) return;
      if (!(problem instanceof Problem)) throw problem;
      this.isOffline = problem.status === 0;
      if (!this.filters.showProblem(problem) || !this.panes.length) this.showProblem(problem);
    } finally {
      clearTimeout(busy);
      if (this.controller === controller) this.results.removeAttribute("aria-busy");
    }
  }

  updateURL({ push, replace }) {
    const search = writeState(this.state).toString();
    if (search === location.search.slice(1)) return;
    const url = search ? `?${search}` : location.pathname;
    if (push || replace) history[replace ? "replaceState" : "pushState"]({}, "", url);
  }

  // The first page of the query in the URL, which is in the HTML.
  readFirstPage() {
    const node = document.querySelector("#first-page");
    return { query: writeState(this.state).toString(), page: JSON.parse(node.textContent) };
  }

  // Returns the first page of a state, if it is there already; once.
  takeFirstPage(state) {
    const { query, page } = this.first;
    this.first = { query, page: null };
    return query === writeState(state).toString() ? page : null;
  }

  // Returns the panes with their first results: one for each gallery that is compared.
  async load(signal) {
    const other = this.state.options.compare;
    const names = [this.gallery, ...(other && isSearch(this.state) ? [other] : [])];
    return Promise.all(names.map((name) => this.loadPane(name, signal)));
  }

  async loadPane(name, signal) {
    const isOwn = name === this.gallery;
    const state = structuredClone(isOwn ? this.state : await withImages(this.state, this.gallery, name, keepUpload));
    let ready = isOwn ? this.takeFirstPage(state) : null;
    const api = isOwn ? this.api : new API(name, { kinds: this.api.kinds, supportsText: this.info.others[name] });
    const { group } = state.options;
    if (group) state.options.sort = group === "month" ? "-date" : group;
    const pane = { name, state, first: null, revision: null };
    const load = async (offset, limit, pageSignal) => {
      const range = { offset, limit, revision: pane.revision, signal: pageSignal };
      const page = ready ?? (await (isSearch(state) ? api.search(state, range) : api.list(state, range)));
      ready = null;
      if (!isSearch(state)) {
        pane.revision = page.revision;
        pane.first ??= page;
        return page;
      }
      pane.first ??= page;
      const end = offset + page.hits.length; // how many there are is only known at the end
      pane.pages.isOpen = page.total === null && page.next !== null;
      return { items: page.hits, total: page.total ?? (page.next ? Math.max(pane.pages.total, end + limit) : end) };
    };
    pane.pages = new Pages({
      size: this.info.page_size,
      load,
      onChange: (from, to) => pane.grid?.refresh(from, to),
      onProblem: (problem) => (problem.status === 410 ? this.runAgain() : this.showProblem(problem)),
    });
    signal.addEventListener("abort", () => pane.grid || pane.pages.stop());
    await pane.pages.start();
    pane.groups = isSearch(state) ? null : await this.groups(state, pane.pages.total, signal);
    return pane;
  }

  // The groups of a listing, in the order of its items.
  async groups(state, total, signal) {
    if (!state.options.group || !total) return null;
    const by = state.options.group === "month" ? "month" : "value";
    const groups = await this.api.groups(state, { by, signal });
    return groups.map(({ value, count }) => ({ title: value === null ? t("no-value") : by === "month" ? formatMonth(value) : displayText(value), count }));
  }

  // ---- results ------------------------------------------------------------------------------

  show(panes) {
    for (const { grid, pages } of this.panes) {
      grid.hide();
      pages.stop();
    }
    this.panes = panes;
    this.results.replaceChildren();
    this.results.classList.toggle("side-by-side", panes.length > 1);
    for (const pane of panes) this.showPane(pane, panes.length > 1);
    this.showCount();
    if (!isSearch(this.state)) this.refreshFacets();
  }

  showPane(pane, isCompared) {
    const root = element("section", { class: "pane" });
    if (isCompared) root.append(element("h2", {}, pane.name));
    this.results.append(root);
    const open = (index) => {
      pane.anchor = index;
      return this.lightbox.open(pane.pages, index, (last) => pane.grid.focus(last));
    };
    const createCell = cellFactory(pane.name, {
      open,
      similar: (item) => item && this.searchSimilar(item),
      toggle: (index, event) => this.select(pane, index, event),
      isSelected: (item) => this.selection.has(item.id),
    }, () => pane.grid.side);
    pane.grid = new Grid(root, { createCell, captionHeight: () => 48 });
    pane.grid.size = this.cellSize();
    if (pane.pages.total) pane.grid.show(pane.pages, pane.groups);
    else root.append(this.emptyState(pane));
  }

  showCount() {
    const [{ pages, first, state }] = this.panes;
    const count = pages.isOpen ? t("most-similar-first") : t(isSearch(state) ? "results-count" : "items-count", { n: pages.total });
    this.count.textContent = [count, pages.total ? this.noteOf(first) : ""].filter(Boolean).join(" · ");
    document.title = `${this.titleOf(state)} · lookalike`;
  }

  // What to know about results, as a sentence; how a text is searched for is at its field.
  noteOf(page) {
    const note = (page?.note ?? "").replace(this.info.text_note, "").replace(/^; /, "");
    return note && `${note[0].toUpperCase()}${note.slice(1)}.`;
  }

  titleOf(state) {
    if (state.text) return `${state.text} · ${this.gallery}`;
    return state.like[0]?.kind === "id" ? `${nameOf(state.like[0].value)} · ${this.gallery}` : this.gallery;
  }

  // What to say when there is nothing, and what to do.
  emptyState({ state, first }) {
    const box = element("div", { class: "empty" });
    const restrict = this.filters.count > 0;
    if (!this.info.rows) {
      const upload = this.main.querySelector("#open-upload");
      box.append(element("h2", {}, t("gallery-empty")));
      if (upload) box.append(element("p", { class: "actions" }, button(t("upload"), () => upload.click(), { class: "primary" })));
      box.append(element("p", {}, t("gallery-empty-detail")), element("code", {}, "lookalike index GALLERY FOLDER"));
      return box;
    }
    const reasons = [];
    if (!hasExamples(state) && state.text && isByWords(state, this.info.supports_text)) reasons.push(t("no-words", { text: state.text }));
    if (restrict) reasons.push(t(isSearch(state) ? "filters-restrict" : "no-filter", { n: this.filters.count }));
    if (state.options.min_similarity) reasons.push(t("no-similar", { share: formatPercent(Number(state.options.min_similarity)) }));
    box.append(element("h2", {}, t("no-results")), element("p", {}, reasons.join(" ") || t("only-query")));
    if (this.noteOf(first)) box.append(element("p", { class: "muted" }, this.noteOf(first)));
    const actions = element("p", { class: "actions" });
    if (restrict) actions.append(button(t("clear-filters"), () => this.main.querySelector("#clear-filters").click()));
    if (state.options.min_similarity) {
      actions.append(button(t("any-similarity"), () => {
        this.state.options.min_similarity = "";
        this.run();
      }));
    }
    if (isSearch(state)) actions.append(button(t("show-all"), () => this.form.querySelector("#clear").click()));
    box.append(actions);
    return box;
  }

  async refreshFacets() {
    const columns = this.info.columns.filter(({ values }) => values).map(({ column }) => column);
    if (!columns.length || !this.filters.count) return this.filters.showCounts(this.info.columns);
    try {
      this.filters.showCounts((await this.api.facets(this.state, columns, { signal: this.controller.signal })).columns);
    } catch {
      // the numbers of all items stay
    }
  }

  // A problem of a query or of a page of items stands above the results, which stay.
  showProblem(problem) {
    const old = this.results.querySelector(":scope > .problem");
    const actions = problem.isTemporary ? [button(t("try-again"), () => this.runAgain())] : [];
    const box = dismissable(problemBox(problem, ...actions));
    if (old) old.replaceWith(box);
    else this.results.prepend(box);
  }

  // A problem of what somebody added or did stands below the search field until the next query.
  showNotice(problem) {
    this.notices.replaceChildren(dismissable(problemBox(problem)));
  }

  // Selects an item, or with Shift all from the last one on.
  async select(pane, index, event) {
    const item = await pane.pages.get(index);
    if (!item) return;
    if (event.shiftKey && pane.anchor !== undefined) {
      const [from, to] = [Math.min(pane.anchor, index), Math.max(pane.anchor, index)];
      const items = [];
      for (let i = from; i <= to; i++) items.push(await pane.pages.get(i));
      this.selection.set(items.filter(Boolean));
      announce(t("selected", { n: this.selection.size }));
    } else this.selection.toggle(item);
    pane.anchor = index;
  }

  // ---- keyboard ------------------------------------------------------------------------------

  onKeyDown(event) {
    if (event.ctrlKey || event.metaKey || event.altKey || event.target.closest("input, select, textarea, dialog[open]")) return;
    const pane = this.panes.find(({ grid }) => grid.isFocusInside) ?? this.panes[0];
    const keys = {
      "/": () => this.form.elements.text.focus(),
      Escape: () => this.selection.size && this.selection.clear(),
      ArrowDown: () => event.target === document.body && pane?.grid.focus(pane.grid.focused),
      ArrowRight: () => event.target === document.body && pane?.grid.focus(pane.grid.focused),
    };
    if (!(event.key in keys)) return;
    if (keys[event.key]() !== false) event.preventDefault();
  }
}
