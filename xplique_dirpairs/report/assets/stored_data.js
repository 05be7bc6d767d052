// Where data and pictures come from: files beside the page, or scripts in it that do not run.

const FILES = 'report_files/';
const arrived = new Map();
const awaited = new Map();
const pictureUrls = new Map();
let report = null;

/** Called by the files beside the page. */
function reportData(key, value) {
  arrived.set(key, value);
}

/** A part of the data: a promise. */
function load(key) {
  if (arrived.has(key)) return Promise.resolve(arrived.get(key));
  if (!awaited.has(key)) awaited.set(key, stored(key) || fetched(key));
  return awaited.get(key);
}

function stored(key) {
  const script = document.getElementById('stored-' + key);
  return script && Promise.resolve(JSON.parse(script.textContent));
}

// A script, since pages that are opened from disk may not read files in any other way.
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

/** What an <img> takes for a picture of the report. */
function pictureUrl(path) {
  const script = document.getElementById('stored-' + path);
  if (!script) return FILES + path;
  if (!pictureUrls.has(path)) {
    const [head, coded] = script.textContent.split(',');
    const bytes = Uint8Array.from(atob(coded), (letter) => letter.charCodeAt(0));
    const type = head.slice('data:'.length).split(';')[0];
    pictureUrls.set(path, URL.createObjectURL(new Blob([bytes], { type })));
  }
  return pictureUrls.get(path);
}

/** The concept maps of an image: {height, width, concepts, cells}; cells: concept after concept. */
async function mapsOf(n) {
  const key = 'maps-' + String(Math.floor(n / report.mapsAtOnce)).padStart(4, '0');
  const part = await load(key);
  const found = part.images[n % report.mapsAtOnce];
  return {
    height: part.height,
    width: part.width,
    concepts: found.concepts,
    cells: Uint8Array.from(atob(found.cells), (letter) => letter.charCodeAt(0)),
  };
}
