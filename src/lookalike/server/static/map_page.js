// The map page: the map of a gallery with thumbnails and searches from the service.

import { announce, emptyState, problemBox } from "./dom.js";
import { itemURL, requestJSON } from "./http.js";
import { fetchBlob } from "./images.js";
import { showMap } from "./map.js";
import { Selection } from "./selection.js";
import { t } from "./texts.js";

const THUMBNAIL_SIZE = 64;
const MAX_THUMBNAILS = 120; // on the map at a time; each is a request

export async function start(main) {
  const { gallery } = main.dataset;
  const root = main.querySelector("#map");
  try {
    const data = await requestJSON(`/v1/galleries/${gallery}/map`);
    main.querySelector("#stale span").textContent = t("map-stale", { changes: data.changes });
    main.querySelector("#stale").hidden = !data.stale;
    const selection = new Selection(gallery);
    showMap(root, data, {
      t,
      onSelect: (ids) => {
        selection.set(ids.map((id) => ({ id })));
        announce(t("selected-elsewhere", { n: selection.size }));
      },
      thumbnailSize: THUMBNAIL_SIZE,
      maxThumbnails: MAX_THUMBNAILS,
      searchURL: (id) => `/g/${gallery}?id=${encodeURIComponent(id)}`,
      thumbnail: async (row) => {
        const image = await createImageBitmap(await fetchBlob(`${itemURL(gallery, "/thumbnail", data.ids[row])}&size=128`));
        return { image, x: 0, y: 0, width: image.width, height: image.height };
      },
    });
  } catch (problem) {
    root.replaceChildren(problem.status === 404 ? emptyState(t("no-map"), t("no-map-detail"), "lookalike explore map GALLERY") : problemBox(problem));
  }
}
