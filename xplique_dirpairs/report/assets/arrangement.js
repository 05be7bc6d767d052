// Images of a class in two dimensions, coloured by their strongest concepts.

/** Returns the concept with the largest contribution to an image's prediction; null if none is. */
function strongestConcept(n) {
  const values = report.images[n].contributions;
  return values.reduce((top, value, i) => (value > (top === null ? 0 : values[top]) ? i : top),
    null);
}

/** Returns a map of the shown images that are predicted as a class; null if they are too few. */
function arrangementOf(id) {
  const own = report.images.map((_, n) => n).filter((n) => report.images[n].place &&
    report.images[n].likeliest[0] === id);
  if (!own.length) return null;
  const numbers = new Map();
  for (const n of own) {
    const i = strongestConcept(n);
    numbers.set(i, (numbers.get(i) || 0) + 1);
  }
  const [width, height, edge] = [520, 360, 14];
  const preview = el('div', { class: 'preview', 'aria-hidden': 'true' },
    el('p', { class: 'muted' }, 'Point at a dot to see its image.'));
  const show = (n) => replaceContent(preview, picture(n, describeImage(n)),
    el('p', { class: 'caption' }, bdi(report.images[n].name), el('br'), 'strongest: ',
      nameOf(strongestConcept(n))));
  const dots = own.map((n) => {
    const [x, y] = report.images[n].place;
    const i = strongestConcept(n);
    return el('g', { class: 'dot', role: 'link', tabindex: '0',
      'data-concept': i === null ? '' : i,
      'aria-label': describeImage(n) + ', strongest concept: ' + nameOf(i),
      onmouseenter: () => show(n), onfocus: () => show(n), onclick: () => openImage(n),
      onkeydown: (event) => { if (event.key === 'Enter') openImage(n); } },
    el('circle', { cx: edge + x * (width - 2 * edge), cy: edge + y * (height - 2 * edge), r: 7,
      fill: i === null ? 'none' : report.concepts[i].color }));
  });
  const mark = (i) => dots.forEach((dot) => dot.classList.toggle('faint', i !== null &&
    dot.dataset.concept !== String(i)));
  const legend = [...numbers].sort((one, other) => other[1] - one[1]).map(([i, number]) =>
    el('li', { onmouseenter: () => mark(i === null ? '' : i), onmouseleave: () => mark(null) },
      i === null ? 'no concept for it' : conceptLink(i), el('span', { class: 'muted' }, ' ' +
        count(number, 'image'))));
  return [
    el('p', { class: 'muted lead' }, 'Each dot is an image that is predicted as this class. Its ' +
      'colour is the concept that contributes most to the prediction. Images whose predictions ' +
      'are made by the same concepts are near each other (t-SNE). Only neighbours count: ' +
      'distances between groups and sizes of groups mean nothing.'),
    el('div', { class: 'arrangement' },
      el('svg', { viewBox: '0 0 ' + width + ' ' + height, role: 'group',
        'aria-label': 'Images by the concepts of their prediction' }, dots),
      el('div', {}, el('ul', { class: 'legend' }, legend), preview)),
  ];
}

function openImage(n) {
  followed = true;
  location.hash = '#/image/' + n;
}

function nameOf(i) {
  return i === null ? 'none' : conceptName(i);
}
