// Choice of the page by address, search, keys and colours.

const PARTS = [
  ['overview', 'Overview'],
  ['concepts', 'Concepts'],
  ['classes', 'Classes'],
  ['images', 'Images'],
  ['comparison', 'Comparison'],
  ['help', 'Help'],
];
const PART_OF = { concept: 'concepts', class: 'classes', image: 'images' };

/** Returns {part, id, query} from the part of the address after #. */
function address() {
  const [path, query] = location.hash.replace(/^#\/?/, '').split('?');
  const [part, id] = path.split('/');
  return { part: part || 'overview', id: id === undefined ? null : Number(id),
    query: new URLSearchParams(query || '') };
}

function pageFor({ part, id, query }) {
  const whole = Number.isInteger(id);
  if (part === 'overview') return overviewPage;
  if (part === 'concepts') return (main) => conceptsPage(main, query);
  if (part === 'classes') return classesPage;
  if (part === 'images') return (main) => imagesPage(main, query);
  if (part === 'comparison' && report.tables.length) return comparisonPage;
  if (part === 'help') return helpPage;
  if (part === 'concept' && whole && report.concepts[id]) return (main) => conceptPage(main, id);
  if (part === 'class' && whole && placeOfClass(id) >= 0) return (main) => classPage(main, id);
  if (part === 'image' && whole && report.images[id]) return (main) => imagePage(main, id, query);
  return (main) => add(main, [heading('This page does not exist'),
    el('p', {}, el('a', { href: '#/overview' }, 'Go to the overview'))]);
}

function showPage(first) {
  const where = address();
  const main = document.getElementById('main');
  main.replaceChildren();
  pageFor(where)(main);
  const title = main.querySelector('h1');
  document.title = where.part === 'overview' ? report.title
    : title.textContent + ' \u2013 ' + report.title;
  const own = PART_OF[where.part] || where.part;
  for (const link of document.querySelectorAll('#parts a')) {
    if (link.dataset.part === own) link.setAttribute('aria-current', 'page');
    else link.removeAttribute('aria-current');
  }
  if (first === true) return;
  title.focus({ preventScroll: true });
  // A link leads to the top of a page, going back to the position where the page was left.
  window.scrollTo(0, followed ? 0 : places.get(location.hash) || 0);
  followed = false;
}

const places = new Map();
let followed = false;

function rememberPlaces() {
  history.scrollRestoration = 'manual';
  document.addEventListener('click', (event) => {
    if (event.target.closest('a')) followed = true;
  });
  window.addEventListener('scroll', () => places.set(location.hash, window.scrollY),
    { passive: true });
}

/** Writes the filters to the address, so that going back restores them. */
function keepQuery(part, state) {
  const query = new URLSearchParams(Object.entries(state).filter(([, value]) => value !== ''));
  const text = String(query);
  const hash = '#/' + part + (text ? '?' + text : '');
  if (location.hash === hash || address().part !== part) return;
  try {
    history.replaceState(null, '', hash);
  } catch (error) {
    // Some browsers forbid this for pages from disk. Filters are then not restored.
  }
}

// ------------------------------------------------------------------------------ search

function searchable() {
  const concepts = report.concepts.map((_, i) => ['concept', conceptWords(i), '#/concept/' + i]);
  const classes = report.classes.map((one) => ['class', className(one.id), '#/class/' + one.id]);
  const images = report.images.map((image, n) => ['image', fileFirst(image.name), '#/image/' + n]);
  return [...concepts, ...classes, ...images].map(([kind, text, href]) =>
    ({ kind, text, href, low: text.toLowerCase() }));
}

/** Returns the name of a file before its folder, so that a short line shows it. */
function fileFirst(name) {
  const at = name.lastIndexOf('/');
  return at < 0 ? name : name.slice(at + 1) + ' \u2013 ' + name.slice(0, at);
}

let everything = null;

/** Makes the next search look at the present names of concepts. */
function forgetSearch() {
  everything = null;
}

function startSearch() {
  const input = document.getElementById('search');
  const list = document.getElementById('found');
  let active = -1;
  const close = () => {
    list.hidden = true;
    input.setAttribute('aria-expanded', 'false');
    input.removeAttribute('aria-activedescendant');
    active = -1;
  };
  const go = (href) => {
    input.value = '';
    close();
    followed = true;
    if (location.hash === href) showPage();
    else location.hash = href;
  };
  const mark = (k) => {
    const options = [...list.querySelectorAll('[role=option]')];
    if (!options.length) return;
    active = (k + options.length) % options.length;
    options.forEach((option, n) => option.setAttribute('aria-selected', String(n === active)));
    input.setAttribute('aria-activedescendant', options[active].id);
    options[active].scrollIntoView({ block: 'nearest' });
  };
  const fill = () => {
    const wanted = input.value.trim().toLowerCase();
    if (!wanted) return close();
    everything = everything || searchable();
    const starts = (one) => (one.low.startsWith(wanted) ? 0 : 1);
    const found = everything.filter((one) => one.low.includes(wanted))
      .sort((one, other) => starts(one) - starts(other)).slice(0, 12);
    replaceContent(list, found.map((one, k) => el('li', { role: 'option', id: 'found-' + k,
      'aria-selected': 'false', 'data-href': one.href, onmousedown: (event) => {
        event.preventDefault();
        go(one.href);
      } }, el('span', { class: 'kind' }, one.kind), ' ', bdi(one.text))),
    found.length ? null : el('li', { class: 'muted' }, 'Nothing found'));
    list.hidden = false;
    input.setAttribute('aria-expanded', 'true');
    input.removeAttribute('aria-activedescendant');
    active = -1;
    announce(found.length === 12 ? '12 or more found' : found.length + ' found');
  };
  input.addEventListener('input', fill);
  input.addEventListener('blur', close);
  input.addEventListener('keydown', (event) => {
    if (event.key === 'ArrowDown') mark(active + 1);
    else if (event.key === 'ArrowUp') mark(active < 0 ? -1 : active - 1);
    else if (event.key === 'Escape') close();
    else if (event.key === 'Enter') {
      const chosen = list.querySelectorAll('[role=option]')[Math.max(active, 0)];
      if (!list.hidden && chosen) go(chosen.dataset.href);
    } else return;
    if (event.key !== 'Escape') event.preventDefault();
  });
}

/** Prepares the page for print: pictures that were not seen yet are loaded, details are open. */
function startPrinting() {
  window.addEventListener('beforeprint', () => {
    for (const img of document.images) img.loading = 'eager';
    for (const more of document.querySelectorAll('details')) more.open = true;
  });
}

function startKeys() {
  document.addEventListener('keydown', (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    if (event.target.closest('input, select, textarea, dialog, .wide')) return;
    if (event.key === '/') {
      event.preventDefault();
      document.getElementById('search').focus();
    }
    const turn = { ArrowLeft: ':first-child', ArrowRight: ':last-child' }[event.key];
    const link = turn && document.querySelector('.pager a' + turn);
    if (link) link.click();
  });
}

// ------------------------------------------------------------------------------ colours

const THEMES = ['auto', 'light', 'dark'];

function remembered() {
  try {
    return localStorage.getItem('xplique-dirpairs-theme');
  } catch (error) {
    return null; // Some browsers forbid storage for pages from disk.
  }
}

function startTheme() {
  const button = document.getElementById('theme');
  let theme = THEMES.includes(remembered()) ? remembered() : 'auto';
  const set = () => {
    if (theme === 'auto') delete document.documentElement.dataset.theme;
    else document.documentElement.dataset.theme = theme;
    button.textContent = { auto: '\u25d0 Auto', light: '\u25cb Light', dark: '\u25cf Dark' }[theme];
    button.setAttribute('aria-label', 'Colours: ' + theme + '; press for ' +
      THEMES[(THEMES.indexOf(theme) + 1) % 3]);
  };
  button.addEventListener('click', () => {
    theme = THEMES[(THEMES.indexOf(theme) + 1) % 3];
    set();
    try {
      localStorage.setItem('xplique-dirpairs-theme', theme);
    } catch (error) {
      // The theme is then forgotten when the page is closed.
    }
  });
  set();
}

// ------------------------------------------------------------------------------ start

async function start() {
  startTheme();
  try {
    report = await load('data');
  } catch (error) {
    replaceContent(document.getElementById('main'), el('p', { class: 'note' }, error.message));
    return;
  }
  const shown = PARTS.filter(([part]) => part !== 'comparison' || report.tables.length);
  add(document.getElementById('parts'), shown.map(([part, text]) => el('li', {},
    el('a', { href: '#/' + part, 'data-part': part }, text))));
  document.getElementById('skip').addEventListener('click', (event) => {
    event.preventDefault();
    document.getElementById('main').focus();
  });
  startSearch();
  startKeys();
  startPrinting();
  rememberPlaces();
  window.addEventListener('hashchange', showPage);
  showPage(true);
}

if (document.readyState === 'loading') document.addEventListener('DOMContentLoaded', start);
else start();
