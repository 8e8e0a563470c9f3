// Starts what a page needs. With API keys, a page is fetched again with the key of this tab.

import { ask, key, parsed } from "./http.js";
import { show } from "./pictures.js";

const starts = {
  search: () => import("./search.js"),
  judge: () => import("./judge.js"),
  map: () => import("./atlas.js"),
  label: () => import("./label.js"),
};

async function start() {
  const main = document.querySelector("main");
  document.querySelector("#galleries")?.addEventListener("change", ({ target }) => {
    location.href = `/g/${target.value}${target.dataset.below}`;
  });
  document.querySelector("#sign-out")?.addEventListener("click", () => {
    key.forget();
    location.reload();
  });
  show(document);
  if (main.dataset.page === "sign-in") await signIn(main);
  else if (main.dataset.page in starts) await (await starts[main.dataset.page]()).start(main);
  main.dataset.ready = "";
}

async function signIn(main) {
  if (key.get() && (await enter())) return;
  const form = main.querySelector("form");
  form.addEventListener("submit", async (event) => {
    event.preventDefault();
    key.set(form.querySelector("#key").value.trim());
    await enter();
  });
  form.querySelector("#key").focus();
}

async function enter() {
  try {
    const page = parsed(await (await ask(location.href)).text());
    document.title = page.title;
    document.body.replaceWith(document.adoptNode(page.body));
    await start();
    return true;
  } catch (problem) {
    key.forget();
    document.querySelector("#refused").textContent =
      problem.status === 401 ? "That is not a key of this service." : problem.message;
    return false;
  }
}

start();
