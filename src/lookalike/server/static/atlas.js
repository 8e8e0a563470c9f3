// The page of the map: the map of the service, with its images and searches.

import { address, ask, problemBox } from "./http.js";
import { fetched } from "./pictures.js";
import { showMap } from "./map.js";

const SIDE = 48;
const MOST = 120; // each image is a request

export async function start(main) {
  const { gallery } = main.dataset;
  const root = main.querySelector("#map");
  try {
    const data = await (await ask(`/v1/galleries/${gallery}/map`)).json();
    main.querySelector("#stale").hidden = !data.stale;
    showMap(root, data, {
      side: SIDE,
      most: MOST,
      search: (id) => `/g/${gallery}?id=${encodeURIComponent(id)}`,
      thumbnail: async (row) => {
        const image = await createImageBitmap(await fetched(`${address(gallery, "/thumbnail", data.ids[row])}&side=${2 * SIDE}`));
        return { image, x: 0, y: 0, width: image.width, height: image.height };
      },
    });
  } catch (problem) {
    root.replaceChildren(problemBox(problem));
  }
}
