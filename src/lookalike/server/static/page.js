// Starts the script of a page. With API keys, a page is fetched again with the key of this tab.

import { apiKey, parseHTML, request } from "./http.js";
import { t } from "./texts.js";

const pageModules = {
  browse: () => import("./browse.js"),
  judge: () => import("./judge.js"),
  map: () => import("./map_page.js"),
  label: () => import("./label.js"),
};

async function start() {
  const main = document.querySelector("main");
  document.querySelector("#galleries")?.addEventListener("change", ({ target }) => {
    location.href = `/g/${target.value}${target.dataset.view}`;
  });
  document.querySelector("#sign-out")?.addEventListener("click", () => {
    apiKey.clear();
    location.reload();
  });
  document.querySelector("nav [aria-current]")?.scrollIntoView({ block: "nearest", inline: "nearest" }); // on phones
  const { page } = main.dataset;
  if (page === "sign-in") await signIn(main);
  else if (page in pageModules) await (await pageModules[page]()).start(main);
  main.dataset.ready = "";
}

async function signIn(main) {
  if (apiKey.get() && (await openPage())) return;
  const form = main.querySelector("form");
  form.addEventListener("submit", async (event) => {
    event.preventDefault();
    apiKey.set(form.querySelector("#key").value.trim());
    await openPage();
  });
  form.querySelector("#key").focus();
}

async function openPage() {
  try {
    const page = parseHTML(await (await request(location.href)).text());
    document.title = page.title;
    for (const link of page.head.querySelectorAll("link[rel=stylesheet]")) {
      if (!document.head.querySelector(`link[href="${link.getAttribute("href")}"]`)) document.head.append(document.adoptNode(link));
    }
    document.body.replaceWith(document.adoptNode(page.body));
    await start();
    return true;
  } catch (problem) {
    apiKey.clear();
    document.querySelector("#sign-in-error").textContent =
      problem.status === 401 ? t("api-key-invalid") : problem.message;
    return false;
  }
}

start();
