// ZIP files (APPNOTE 6.3.10) of files that are stored as they are, since images are compressed.

const LIMIT = 2 ** 32 - 1; // bytes of an archive without the extension for larger ones
const UTF8 = 0x0800; // flag: names are in UTF-8

const TABLE = Uint32Array.from({ length: 256 }, (_, i) => {
  for (let bit = 0; bit < 8; bit++) i = i & 1 ? (i >>> 1) ^ 0xedb88320 : i >>> 1;
  return i >>> 0;
});

function crc32(bytes) {
  let crc = -1;
  for (const byte of bytes) crc = (crc >>> 8) ^ TABLE[(crc ^ byte) & 255];
  return ~crc >>> 0;
}

export class Zip {
  constructor() {
    this.parts = [];
    this.entries = [];
    this.size = 0;
  }

  // Adds a file; its name may be a path.
  async add(name, blob) {
    const path = new TextEncoder().encode(name);
    if (this.size + blob.size + path.length + 30 > LIMIT) throw new RangeError("an archive has at most 4 GB");
    const crc = crc32(new Uint8Array(await blob.arrayBuffer()));
    const entry = { path, crc, size: blob.size, offset: this.size };
    this.#push(record(0x04034b50, [[20, 2], [UTF8, 2], [0, 2], ...time(), [crc, 4], [blob.size, 4], [blob.size, 4], [path.length, 2], [0, 2]]), path, blob);
    this.entries.push(entry);
  }

  // Returns the archive.
  blob() {
    const start = this.size;
    for (const { path, crc, size, offset } of this.entries) {
      this.#push(record(0x02014b50, [[20, 2], [20, 2], [UTF8, 2], [0, 2], ...time(), [crc, 4], [size, 4], [size, 4], [path.length, 2], [0, 2], [0, 2], [0, 2], [0, 2], [0, 4], [offset, 4]]), path);
    }
    const count = this.entries.length;
    this.#push(record(0x06054b50, [[0, 2], [0, 2], [count, 2], [count, 2], [this.size - start, 4], [start, 4], [0, 2]]));
    return new Blob(this.parts, { type: "application/zip" });
  }

  #push(...parts) {
    this.parts.push(...parts);
    for (const part of parts) this.size += part.size ?? part.length;
  }
}

// Returns numbers in little-endian bytes, after a signature.
function record(signature, fields) {
  const all = [[signature, 4], ...fields];
  const bytes = new DataView(new ArrayBuffer(all.reduce((sum, [, size]) => sum + size, 0)));
  let place = 0;
  for (const [value, size] of all) {
    if (size === 2) bytes.setUint16(place, value, true);
    else bytes.setUint32(place, value, true);
    place += size;
  }
  return new Uint8Array(bytes.buffer);
}

// The time of now as MS-DOS has it.
function time() {
  const now = new Date();
  return [
    [(now.getHours() << 11) | (now.getMinutes() << 5) | (now.getSeconds() >> 1), 2],
    [((now.getFullYear() - 1980) << 9) | ((now.getMonth() + 1) << 5) | now.getDate(), 2],
  ];
}
