// Images of items, for elements that are not from an answer with signed links.

import { apiKey, request } from "./http.js";

export async function fetchBlob(url) {
  return (await request(url)).blob();
}

// Sets the source of an image; with an API key, which an <img> cannot send, it is fetched first.
export async function setSource(image, url) {
  if (!apiKey.get()) {
    image.src = url;
    return;
  }
  image.src = URL.createObjectURL(await fetchBlob(url));
  image.addEventListener("load", () => URL.revokeObjectURL(image.src), { once: true });
}
