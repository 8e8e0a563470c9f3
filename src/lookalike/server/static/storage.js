// What this browser keeps (IndexedDB): images that were searched with, and recent queries.

const DATABASE = "lookalike";
const VERSION = 2;
const MAX_UPLOADS = 60;

const memory = new Map(); // of this page, also where nothing can be stored

let opening = null;
function openDatabase() {
  opening ??= new Promise((resolve, reject) => {
    const open = indexedDB.open(DATABASE, VERSION);
    open.onupgradeneeded = () => {
      for (const name of open.result.objectStoreNames) open.result.deleteObjectStore(name);
      for (const name of ["uploads", "queries"]) open.result.createObjectStore(name, { keyPath: "key" });
    };
    open.onsuccess = () => resolve(open.result);
    open.onerror = () => reject(open.error);
    open.onblocked = () => reject(new Error("another tab has an older version of the page"));
  });
  return opening;
}

export async function transact(name, operation) {
  const store = (await openDatabase()).transaction(name, "readwrite").objectStore(name);
  return new Promise((resolve, reject) => {
    const pending = operation(store);
    pending.onsuccess = () => resolve(pending.result);
    pending.onerror = () => reject(pending.error);
  });
}

// Keeps an image; returns its digest, by which it is found again in this browser.
export async function keepUpload(blob, name) {
  const key = await digest(blob);
  const upload = { key, blob, name, time: Date.now() };
  memory.set(key, upload);
  try {
    await transact("uploads", (store) => store.put(upload));
    const all = await transact("uploads", (store) => store.getAll());
    const old = all.sort((a, b) => b.time - a.time).slice(MAX_UPLOADS);
    for (const each of old) await transact("uploads", (store) => store.delete(each.key));
  } catch {
    // private windows may not allow storage: the image is there until the page is left
  }
  return key;
}

// Returns {blob, name}, or undefined.
export async function findUpload(key) {
  if (memory.has(key)) return memory.get(key);
  try {
    return await transact("uploads", (store) => store.get(key));
  } catch {
    return undefined;
  }
}

async function digest(blob) {
  if (!globalThis.crypto?.subtle) return `${Date.now()}-${blob.size}`;
  const hash = new Uint8Array(await crypto.subtle.digest("SHA-256", await blob.arrayBuffer()));
  return [...hash.slice(0, 12)].map((byte) => byte.toString(16).padStart(2, "0")).join("");
}
