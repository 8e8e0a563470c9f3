// Items of a gallery as the page shows them: names, links, and cells of the grid.

import { button, element } from "./dom.js";
import { formatPercent, t } from "./texts.js";

const PIXELATED = 96; // images of at most so many pixels keep their pixels

// Whether an image is tiny, and shown so large that its pixels should stay sharp.
export function isEnlarged({ naturalWidth, naturalHeight }, width) {
  return Math.max(naturalWidth, naturalHeight) <= PIXELATED && naturalWidth < width * 0.75;
}

// The last part of an id, which is a file name or a number.
export function nameOf(id) {
  return id.slice(id.indexOf(":") + 1).split("/").pop() || id;
}

export const pageURL = (gallery, id) => `/g/${encodeURIComponent(gallery)}?id=${encodeURIComponent(id)}`;

export const labelOf = ({ metadata }) => (metadata?.label === undefined || metadata.label === null ? "" : displayText(metadata.label));

export function displayText(value) {
  if (value === true || value === false) return t(value ? "yes" : "no");
  return Array.isArray(value) ? value.map(displayText).join(", ") : typeof value === "object" && value !== null ? JSON.stringify(value) : String(value);
}

const THUMBNAIL_SIZES = [128, 256, 512, 1024];

// Sets the source of an image to the thumbnail that is sharp at a width in pixels of the page.
export function setThumbnail(image, item, width) {
  const template = item.thumbnail_url_template;
  image.sizes = `${Math.round(width)}px`;
  image.srcset = THUMBNAIL_SIZES.map((size) => `${template.replace("{size}", size)} ${size}w`).join(", ");
  image.src = item.thumbnail_url;
}

// Makes cells of the grid. `actions` has open(index), similar(item), toggle(index, event) and
// isSelected(item); `side()` is the width of a cell.
export function cellFactory(gallery, actions, side) {
  return () => {
    const image = element("img", { alt: "", decoding: "async" });
    const link = element("a", { class: "thumbnail" }, image);
    const checkbox = element("input", { type: "checkbox", class: "select", tabindex: "-1" });
    const similar = button(t("similar"), () => actions.similar(current), { iconName: "similar", class: "similar", tabindex: "-1" });
    const [name, similarity, label] = [element("span", { class: "name" }), element("span", { class: "similarity" }), element("span", { class: "label" })];
    const caption = element("div", { class: "caption" }, element("div", { class: "line" }, name, similarity), label);
    const node = element("li", { class: "cell" }, link, checkbox, similar, caption);
    let current = null;
    const index = () => Number(node.dataset.index);
    link.addEventListener("click", (event) => {
      event.preventDefault();
      if (event.shiftKey || event.ctrlKey || event.metaKey) actions.toggle(index(), event);
      else actions.open(index());
    });
    link.addEventListener("keydown", (event) => {
      if (event.key !== " " && event.key !== "x") return;
      event.preventDefault();
      actions.toggle(index(), event);
    });
    checkbox.addEventListener("click", (event) => actions.toggle(index(), event));
    image.addEventListener("load", () => {
      link.classList.add("loaded");
      image.classList.toggle("pixelated", isEnlarged(image, side()));
    });
    image.addEventListener("error", () => link.classList.add("missing"));

    function clear() {
      current = null;
      node.classList.add("empty");
      link.classList.remove("loaded", "missing");
      link.removeAttribute("href");
      for (const each of ["src", "srcset"]) image.removeAttribute(each);
      name.textContent = similarity.textContent = label.textContent = "";
    }

    function fill(item, { isInSight }) {
      const isSelected = actions.isSelected(item);
      node.classList.toggle("selected", isSelected);
      checkbox.checked = isSelected;
      if (current?.id === item.id) return;
      clear();
      current = item;
      node.classList.remove("empty");
      const title = nameOf(item.id);
      link.href = pageURL(gallery, item.id);
      link.setAttribute("aria-label", t("open-item", { name: title }));
      checkbox.setAttribute("aria-label", t("select-item", { name: title }));
      image.fetchPriority = isInSight ? "high" : "low"; // what is in sight comes first
      setThumbnail(image, item, side());
      name.textContent = node.title = title;
      similarity.textContent = item.similarity === undefined || item.similarity === null ? "" : formatPercent(item.similarity);
      label.textContent = labelOf(item);
    }

    clear();
    return { node, fill, clear };
  };
}
