// Loading of data and pictures, from files beside the page or from scripts in it that do not run.

const FILES = 'report_files/';
const arrived = new Map();
const awaited = new Map();
const pictureUrls = new Map();
let report = null;

/** Stores a part of the data; the files beside the page call it. */
function reportData(key, value) {
  arrived.set(key, value);
}

/** Returns a promise of a part of the data. */
function load(key) {
  if (arrived.has(key)) return Promise.resolve(arrived.get(key));
  if (!awaited.has(key)) awaited.set(key, stored(key) || fetched(key));
  return awaited.get(key);
}

function stored(key) {
  const script = document.getElementById('stored-' + key);
  return script && Promise.resolve(JSON.parse(script.textContent));
}

// Data are loaded as scripts, since pages that are opened from disk cannot read files otherwise.
function fetched(key) {
  return new Promise((done, failed) => {
    const file = FILES + key + '.js';
    const script = el('script', { src: file });
    script.onload = () => done(arrived.get(key));
    script.onerror = () => {
      awaited.delete(key);
      failed(new Error(file + ' cannot be read: keep the folder report_files beside index.html'));
    };
    document.head.append(script);
  });
}

/** Returns the bytes of a base64 text; a loop is several times as fast as Uint8Array.from. */
function decoded(text) {
  const letters = atob(text);
  const bytes = new Uint8Array(letters.length);
  for (let n = 0; n < letters.length; n++) bytes[n] = letters.charCodeAt(n);
  return bytes;
}

// Where motion is switched off, animations are replaced by the frame in their middle.
const isStill = window.matchMedia('(prefers-reduced-motion: reduce)').matches;

/** Returns the URL of a picture of the report, for the `src` of an <img>. */
function pictureUrl(path) {
  if (isStill && path.endsWith('.webp') && !path.endsWith('.frames.webp')) {
    return urlOf(path.replace(/\.webp$/, '.still.webp'));
  }
  return urlOf(path);
}

function urlOf(path) {
  const script = document.getElementById('stored-' + path);
  if (!script) return FILES + path;
  if (!pictureUrls.has(path)) {
    const [head, coded] = script.textContent.split(',');
    const bytes = decoded(coded);
    const type = head.slice('data:'.length).split(';')[0];
    pictureUrls.set(path, URL.createObjectURL(new Blob([bytes], { type })));
  }
  return pictureUrls.get(path);
}

/** Returns {height, width, concepts, cells} of an image's maps; cells are in order of concepts. */
async function mapsOf(n) {
  const key = 'maps-' + String(Math.floor(n / report.mapsAtOnce)).padStart(4, '0');
  const part = await load(key);
  const found = part.images[n % report.mapsAtOnce];
  return {
    height: part.height,
    width: part.width,
    concepts: found.concepts,
    cells: decoded(found.cells),
  };
}
