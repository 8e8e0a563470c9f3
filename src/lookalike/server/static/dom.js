// Elements of the page.

// Creates an element; its children are text or elements, never markup.
export function element(name, attributes = {}, ...children) {
  const node = document.createElement(name);
  for (const [attribute, value] of Object.entries(attributes)) node.setAttribute(attribute, value);
  node.append(...children);
  return node;
}

export function icon(name) {
  const svg = document.createElementNS("http://www.w3.org/2000/svg", "svg");
  const use = document.createElementNS("http://www.w3.org/2000/svg", "use");
  use.setAttribute("href", `#icon-${name}`);
  svg.setAttribute("class", "icon");
  svg.setAttribute("aria-hidden", "true");
  svg.append(use);
  return svg;
}

// A button with a text, or with an icon whose text is its name.
export function button(text, onClick, { iconName = null, showText = !iconName, ...attributes } = {}) {
  const node = element("button", { type: "button", ...attributes });
  if (iconName) node.append(icon(iconName));
  if (showText) node.append(text);
  else {
    node.title = text;
    node.setAttribute("aria-label", text);
  }
  node.addEventListener("click", onClick);
  return node;
}

// Closes what is open over the page, by `close()`, at a click outside of `node`; on phones, where it
// covers the page, that click does nothing else.
export function closeAtClickOutside(node, isOpen, close) {
  document.addEventListener("click", (event) => {
    if (!isOpen() || node.contains(event.target)) return;
    if (matchMedia("(max-width: 40rem)").matches) {
      event.preventDefault();
      event.stopPropagation();
    }
    close();
  }, { capture: true });
}

// Opens a dialog; returns whether its button with the value "confirm" closed it.
export function confirmed(dialog) {
  cancelLast(); // its event may still come
  dialog.returnValue = "";
  dialog.showModal();
  return new Promise((resolve) => {
    const listening = new AbortController();
    const end = (result) => {
      listening.abort();
      resolve(result);
    };
    cancelLast = () => end(false);
    dialog.addEventListener("close", () => dialog.open || end(dialog.returnValue === "confirm"), listening);
  });
}

let cancelLast = () => {};

export function problemBox(problem, ...actions) {
  const box = element("div", { class: "problem", role: "alert" });
  box.append(element("h2", {}, problem.title ?? problem.message), element("p", {}, problem.title ? problem.message : ""));
  if (actions.length) box.append(element("p", { class: "actions" }, ...actions));
  return box;
}

// What a view shows when it has nothing: what is missing, and the command that creates it.
export function emptyState(title, text, command) {
  return element("div", { class: "empty" }, element("h2", {}, title), element("p", {}, text), element("code", {}, command));
}

// Offers a file for download.
export function download(content, type, name) {
  const url = URL.createObjectURL(content instanceof Blob ? content : new Blob([content], { type }));
  element("a", { href: url, download: name }).click();
  setTimeout(() => URL.revokeObjectURL(url), 10_000);
}

let announcer;
// Tells screen readers something, and shows it for a moment.
export function announce(text) {
  announcer ??= document.body.appendChild(element("div", { class: "toast", role: "status" }));
  announcer.textContent = text;
  announcer.classList.add("shown");
  clearTimeout(announcer.timer);
  announcer.timer = setTimeout(() => announcer.classList.remove("shown"), 4000);
}
