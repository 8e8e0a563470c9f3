// Images that need the API key: an <img> cannot send it, so they are fetched when scrolled into view.

import { request } from "./http.js";

const observer = new IntersectionObserver((entries) => {
  for (const { isIntersecting, target } of entries) {
    if (!isIntersecting) continue;
    observer.unobserve(target);
    load(target);
  }
}, { rootMargin: "300px" });

// Loads the images below an element, and marks those that are missing.
export function loadImages(root) {
  for (const image of root.querySelectorAll("img[data-src]")) observer.observe(image);
  for (const image of root.querySelectorAll(".hits img")) {
    image.addEventListener("error", () => image.closest(".thumbnail")?.classList.add("missing"));
  }
}

async function load(image) {
  try {
    const url = URL.createObjectURL(await fetchBlob(image.dataset.src));
    image.addEventListener("load", () => URL.revokeObjectURL(url), { once: true });
    image.src = url;
  } catch {
    image.dispatchEvent(new Event("error"));
  }
}

export async function fetchBlob(url) {
  return (await request(url)).blob();
}
