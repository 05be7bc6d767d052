// Elements, texts and numbers. Text from the report's data only becomes a text node or the value of
// an attribute: it is never interpreted as markup.

/** Returns an element. `props` are attributes, `on…` listeners and a `style` object; null: unset. */
function el(tag, props, ...children) {
  const svg = SVG_TAGS.has(tag);
  const node = svg ? document.createElementNS('http://www.w3.org/2000/svg', tag)
    : document.createElement(tag);
  for (const [key, value] of Object.entries(props || {})) {
    if (value === null || value === undefined || value === false) continue;
    if (key === 'style') {
      for (const [name, set] of Object.entries(value)) node.style.setProperty(name, set);
    } else if (typeof value === 'function') node.addEventListener(key.slice(2), value);
    else node.setAttribute(key, value === true ? '' : String(value));
  }
  add(node, children);
  return node;
}

const SVG_TAGS = new Set(['svg', 'rect', 'line', 'text', 'g', 'path', 'circle']);

function add(node, children) {
  for (const child of children.flat(Infinity)) {
    if (child === null || child === undefined || child === false) continue;
    node.append(child instanceof Node ? child : document.createTextNode(String(child)));
  }
  return node;
}

function replaceContent(node, ...children) {
  node.replaceChildren();
  return add(node, children);
}

/** Returns a name from the data, isolated from the direction in which the text around it runs. */
function bdi(text) {
  return el('bdi', { title: text.length > 40 ? text : null }, text);
}

// ------------------------------------------------------------------------------ numbers

const MINUS = '\u2212';

function fixed(value, digits) {
  if (value === null || value === undefined) return '\u2013';
  const text = Math.abs(value).toFixed(digits);
  return (value < 0 && Number(text) !== 0 ? MINUS : '') + text;
}

function signed(value, digits = 2) {
  if (value === null || value === undefined) return '\u2013';
  const text = fixed(value, digits);
  return value > 0 && Number(text) !== 0 ? '+' + text : text;
}

function percent(value) {
  if (value === null || value === undefined) return '\u2013';
  const share = 100 * value;
  if (value > 0 && share < 0.1) return '< 0.1\u00a0%';
  return (share < 10 && share > 0 ? share.toFixed(1) : share.toFixed(0)) + '\u00a0%';
}

/** Returns how many digits after the point show that two numbers differ: at least two. */
function digitsThatDiffer(one, other) {
  const apart = Math.abs(one - other);
  return apart > 0 ? Math.min(9, Math.max(2, -Math.floor(Math.log10(apart)))) : 2;
}

/** 1st, 2nd, 3rd, 4th, \u2026 */
function ordinal(value) {
  if (value === null || value === undefined) return '\u2013';
  const n = Math.round(value);
  const teen = n % 100 > 10 && n % 100 < 14;
  return n + ((!teen && { 1: 'st', 2: 'nd', 3: 'rd' }[n % 10]) || 'th');
}

function pValue(p) {
  if (p === null || p === undefined) return '\u2013';
  return p < 0.001 ? '< 0.001' : p.toFixed(3);
}

function count(n, one, many) {
  return n + '\u00a0' + (n === 1 ? one : many || one + 's');
}

// ------------------------------------------------------------------------------ names and links

function conceptName(i) {
  const name = report.concepts[i].name;
  return name === String(i) ? 'Concept ' + i : name;
}

function className(id) {
  const name = report.names[id];
  if (name === undefined) return 'class ' + id;
  return /^\d+$/.test(name) ? 'class ' + name : name; // a number alone reads like a concept's
}

function conceptLink(i) {
  return el('a', { href: '#/concept/' + i, class: 'concept' }, swatch(i), bdi(conceptName(i)));
}

function classLink(id) {
  const known = placeOfClass(id) >= 0;
  return known ? el('a', { href: '#/class/' + id }, bdi(className(id))) : bdi(className(id));
}

function imageLink(n) {
  return el('a', { href: '#/image/' + n }, bdi(report.images[n].name));
}

function placeOfClass(id) {
  return report.classes.findIndex((one) => one.id === id);
}

function swatch(i) {
  return el('span', {
    class: 'swatch', 'aria-hidden': 'true', style: { background: report.concepts[i].color },
  });
}

// ------------------------------------------------------------------------------ parts of pages

function heading(text, ...beside) {
  return el('div', { class: 'heading' }, el('h1', { tabindex: '-1' }, text), beside);
}

function section(title, ...children) {
  return el('section', {}, el('h2', {}, title), children);
}

function facts(pairs) {
  return el('dl', { class: 'facts' }, pairs.filter(Boolean).map(([name, value]) =>
    el('div', {}, el('dt', {}, name), el('dd', {}, value))));
}

function emptyNote(text) {
  return el('p', { class: 'muted' }, text);
}

/** Returns a region that may be wider than a phone and scrolls on its own, also by keyboard. */
function wide(label, ...children) {
  return el('div', { class: 'wide', role: 'region', 'aria-label': label, tabindex: '0' },
    el('p', { 'aria-hidden': 'true' }, label), children);
}

let fields = 0;

function field(label, control) {
  fields += 1;
  control.id = 'field-' + fields;
  return el('div', { class: 'field' }, el('label', { for: control.id }, label), control);
}

function choice(options, chosen, onchange) {
  const select = el('select', { onchange: () => onchange(select.value) });
  for (const [value, text] of options) {
    select.append(el('option', { value, selected: String(value) === String(chosen) }, text));
  }
  return select;
}

/** Shows the first `step` things, and a button that shows `step` more. */
function manyOf(things, make, box, step = 60) {
  let shown = 0;
  const more = el('button', { type: 'button', class: 'more', onclick: () => show(true) });
  function show(asked) {
    const first = shown;
    add(box, things.slice(shown, shown + step).map(make));
    shown = Math.min(things.length, shown + step);
    more.hidden = shown >= things.length;
    replaceContent(more, 'Show more (' + (things.length - shown) + ' left)');
    const next = box.children[first];
    const link = asked && next && next.querySelector('a');
    if (link) link.focus();
  }
  show(false);
  return [box, more];
}

/** Returns a sortable table. Columns: {title, type, hint, rising}; rows: arrays of {node, value}. */
function sortableTable(caption, columns, rows, options = {}) {
  const body = el('tbody');
  const said = [];
  let column = -1;
  let rising = true;
  function sort(k) {
    rising = k === column ? !rising : Boolean(columns[k].rising);
    column = k;
    const sign = rising ? 1 : -1;
    const ordered = rows.slice().sort((one, other) => {
      const [a, b] = [one[k].value, other[k].value];
      if (a === null || a === undefined) return b === null || b === undefined ? 0 : 1;
      if (b === null || b === undefined) return -1;
      return sign * (typeof a === 'number' ? a - b : String(a).localeCompare(String(b)));
    });
    fill(ordered);
    said.forEach((head, n) => {
      if (n === k) head.setAttribute('aria-sort', rising ? 'ascending' : 'descending');
      else head.removeAttribute('aria-sort');
    });
  }
  function fill(ordered) {
    replaceContent(body, ordered.map((row) => el('tr', {}, row.map((cell, k) =>
      el(k === 0 ? 'th' : 'td', {
        scope: k === 0 ? 'row' : null, class: columns[k].type === 'text' ? 'text' : null,
      }, cell.node)))));
  }
  const heads = columns.map((one, k) => {
    const head = el('th', { scope: 'col', class: one.type === 'text' ? 'text' : null },
      el('button', { type: 'button', title: one.hint || null, onclick: () => sort(k) }, one.title));
    said.push(head);
    return head;
  });
  fill(rows);
  if (options.sortBy !== undefined) sort(options.sortBy);
  return wide(caption, el('table', { class: 'sortable' }, el('caption', { class: 'hidden' }, caption),
    el('thead', {}, el('tr', {}, heads)), body));
}

function announce(text) {
  document.getElementById('said').textContent = text;
}
