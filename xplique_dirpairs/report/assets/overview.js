// The front page: the model's classes, and which concepts move which class.

function overviewPage(main) {
  const right = report.classes.reduce((sum, one) => sum + one.accuracy * one.images, 0);
  const images = report.classes.reduce((sum, one) => sum + one.images, 0);
  add(main, [
    heading(bdi(report.title)),
    report.notes.map((note) => el('p', { class: 'note' }, bdi(note))),
    facts([
      ['Classes', report.classes.length],
      ['Concepts', report.concepts.length],
      ['Images', report.imagesOfAll],
      hasLabels() ? ['Predicted correctly', images ? percent(right / images) : '\u2013'] : null,
    ]),
    el('p', { class: 'lead' },
      'A concept is a direction in the features of one layer that stands for a visual pattern. ',
      'Bars show how much a concept speaks ', el('b', { class: 'for' }, 'for (+)'), ' or ',
      el('b', { class: 'against' }, 'against (' + MINUS + ')'), ' a class, in logits; shown are ',
      'the five largest of each class, with one scale for all. ',
      el('a', { href: '#/help' }, 'How to read this')),
    section('What drives each class', filteredCards(report.classes, classCard, (one) =>
      className(one.id), 'classes')),
    report.connectomes.length ? section('Concepts of other layers', el('ul', {},
      report.connectomes.map((one) => el('li', {}, el('a', { href: one.page }, bdi(one.name)),
        ': which concepts of earlier layers make those of later ones, and the classes')))) : null,
    section('Concepts and classes', atOnce() ? matrix() : whenAsked(matrix)),
  ]);
}

/** Returns cards, with a field to filter them by name if there are many. */
function filteredCards(things, make, nameOf, what, query = '') {
  const box = el('div', { class: 'cards' });
  const place = el('div');
  function fill(text) {
    const wanted = text.trim().toLowerCase();
    const found = things.filter((one) => nameOf(one).toLowerCase().includes(wanted));
    box.replaceChildren();
    replaceContent(place, manyOf(found, make, box, 48),
      found.length ? null : emptyNote('No ' + what + ' have this text in their name.'));
    return found.length;
  }
  fill(query);
  if (things.length <= 8) return place;
  const input = el('input', {
    type: 'search', value: query,
    oninput: () => announce(fill(input.value) + ' of ' + things.length + ' ' + what),
  });
  return [el('div', { class: 'filters' }, field('Filter ' + what, input)), place];
}

/** Returns the indices of the largest values above 0, and of the lowest values below 0. */
function strongest(values, most) {
  const order = values.map((value, i) => [value, i]).filter(([value]) => value !== null);
  order.sort((one, other) => other[0] - one[0]);
  const up = order.filter(([value]) => value > 0).slice(0, most).map(([, i]) => i);
  const down = order.filter(([value]) => value < 0).reverse().slice(0, most).map(([, i]) => i);
  return [up, down];
}

function largest(values) {
  return Math.max(0, ...values.map((value) => Math.abs(value || 0)));
}

function classCard(one) {
  const shown = one.effects.map((_, i) => i).filter((i) => one.effects[i])
    .sort((i, j) => Math.abs(one.effects[j]) - Math.abs(one.effects[i])).slice(0, 5);
  const most = largest(report.classes.map((other) => largest(other.effects)));
  return el('article', { class: 'card' },
    el('h3', {}, classLink(one.id)),
    el('p', { class: 'muted' }, hasLabels() ? percent(one.accuracy) + ' of ' +
      count(one.images, 'image') + ' predicted correctly' : count(one.images, 'image')),
    shown.map((i) => el('div', { class: 'row' },
      crops(i, 1), conceptLink(i), signedBar(one.effects[i], most))));
}

/** Returns whether the table of all concepts and classes is small enough to be shown at once. */
function atOnce() {
  return report.classes.length * report.concepts.length <= 5000;
}

function whenAsked(make) {
  const place = el('div');
  const button = el('button', { type: 'button', class: 'quiet',
    onclick: () => replaceContent(place, make()) }, 'Show the table');
  return add(place, [button]);
}

const SHOWN = {
  influence: ['Effect', 'of a concept\u2019s direction on a class, in logits (mean)',
    (one) => one.effects],
  contribution: ['Contribution', 'part of a class\u2019s logit that is due to a concept (mean)',
    (one) => one.contributions],
};

function matrix() {
  const place = el('div');
  function fill(which) {
    const [title, what, values] = SHOWN[which];
    const most = Math.max(...report.classes.map((one) => largest(values(one)))) || 1;
    const caption = title + ': ' + what + '; the strongest colour is ' + fixed(most, 2) +
      (which === 'influence'
      ? '. \u25cf significant, \u2013 not tested, no mark: not significant' : '');
    const head = el('tr', {}, el('th', { scope: 'col' }, 'class'), report.concepts.map((_, i) =>
      el('th', { scope: 'col' }, el('a', { href: '#/concept/' + i, title: conceptName(i),
        'aria-label': conceptName(i) }, swatch(i), el('span', {}, i)))));
    const rows = report.classes.map((one) => el('tr', {},
      el('th', { scope: 'row' }, classLink(one.id)),
      values(one).map((value, i) => matrixCell(one, i, value, most, which))));
    replaceContent(place, wide(caption, el('table', { class: 'matrix' },
      el('caption', { class: 'hidden' }, caption), el('thead', {}, head), el('tbody', {}, rows))));
  }
  const radios = Object.entries(SHOWN).map(([which, [title]], k) => el('label', {},
    el('input', { type: 'radio', name: 'matrix', value: which, checked: k === 0,
      onchange: () => fill(which) }), title));
  fill('influence');
  return [el('fieldset', { class: 'choice' }, el('legend', { class: 'hidden' }, 'Shown'), radios),
    place];
}

function matrixCell(one, i, value, most, which) {
  const share = value === null ? 0 : Math.abs(value) / most;
  const verdict = which !== 'influence' ? '' : ' ' + plusMinus(one.intervals[i]) + ', ' +
    gradeWords(one.significance[i]) + (i in one.untested ? ': ' + one.untested[i] : '');
  const words = conceptName(i) + ', ' + className(one.id) + ': ' + signed(value, 3) + verdict;
  const mark = which === 'influence' ? { '-1': '\u2013', 2: '\u25cf' }[one.significance[i]] : null;
  return el('td', {
    class: value >= 0 ? 'for' : 'against', title: words,
    style: { '--share': Math.round(100 * Math.sqrt(share)) + '%' },
  }, el('span', { 'aria-hidden': 'true' }, mark || ''),
  el('span', { class: 'hidden' }, signed(value, 3) + verdict));
}
