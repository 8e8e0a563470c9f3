// Images that need the key: an <img> cannot send one, so they are fetched when they come into view.

import { ask } from "./http.js";

const seen = new IntersectionObserver((entries) => {
  for (const { isIntersecting, target } of entries) {
    if (!isIntersecting) continue;
    seen.unobserve(target);
    load(target);
  }
}, { rootMargin: "300px" });

export function show(root) {
  for (const image of root.querySelectorAll("img[data-src]")) seen.observe(image);
  for (const image of root.querySelectorAll(".hits img")) {
    image.addEventListener("error", () => image.closest(".shot")?.classList.add("gone"));
  }
}

async function load(image) {
  try {
    const blob = await (await ask(image.dataset.src)).blob();
    const url = URL.createObjectURL(blob);
    image.addEventListener("load", () => URL.revokeObjectURL(url), { once: true });
    image.src = url;
  } catch {
    image.dispatchEvent(new Event("error"));
  }
}

// An image of an item as a blob, and an <img> that shows it or any address.
export async function fetched(url) {
  return (await ask(url)).blob();
}
