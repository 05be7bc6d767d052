// The page of all concepts, and the page of each concept.

const CONCEPT_ORDERS = {
  number: ['number', () => 0],
  presence: ['share of images with it', (i) => -report.concepts[i].presence],
  most: ['largest contribution', (i) => -largest(report.classes.map((one) =>
    one.contributions[i]))],
  effect: ['largest effect', (i) => -largest(report.classes.map((one) => one.effects[i]))],
  classes: ['number of classes it is significant for', (i) => -movedClasses(i).length],
};

function movedClasses(i) {
  return report.classes.filter((one) => one.significance[i] === 2);
}

/** Returns for how many classes a concept is significant, or why none could be. */
function significanceOf(i) {
  const tested = report.classes.filter((one) => !(i in one.untested)).length;
  if (!tested || !report.influence.reachable) {
    const reasons = [...new Set(report.classes.map((one) => one.untested[i]))].filter(Boolean);
    return 'not tested: ' + (reasons.join('; ') || 'too few noise vectors');
  }
  const [moved, of] = [movedClasses(i).length, count(tested, 'tested class', 'tested classes')];
  return moved ? 'significant for ' + moved + ' of ' + of
    : 'not significant for any of ' + of + ' (random directions may have effects as large)';
}

/** Returns the class for which a concept has the value that is largest in size; null if none. */
function classOfLargest(values, i) {
  const known = report.classes.filter((one) => values(one)[i] !== null);
  known.sort((one, other) => Math.abs(values(other)[i]) - Math.abs(values(one)[i]));
  return known.length ? known[0] : null;
}

/** Returns in a sentence what a concept moves: how much, and then what the tests say. */
function verdictOf(i) {
  const most = classOfLargest((one) => one.effects, i);
  const given = classOfLargest((one) => one.contributions, i);
  return [
    most ? ['Largest effect ', signed(most.effects[i]) + ' ' + plusMinus(most.intervals[i]) +
      ' logits on ', classLink(most.id), '; '] : null,
    given ? ['largest contribution ', signed(given.contributions[i]) + ' logits to ',
      classLink(given.id), '; '] : null,
    significanceOf(i), '.',
  ];
}

function conceptsPage(main, query) {
  const place = el('div');
  const box = el('div', { class: 'cards' });
  const state = { text: query.get('text') || '', class: query.get('class') || '',
    order: query.get('order') || 'number' };
  function fill(said) {
    const of = state.class === '' ? null : report.classes[placeOfClass(Number(state.class))];
    const wanted = state.text.trim().toLowerCase();
    const found = report.concepts.map((_, i) => i).filter((i) =>
      (!of || of.significance[i] === 2) && conceptWords(i).toLowerCase().includes(wanted));
    const key = (CONCEPT_ORDERS[state.order] || CONCEPT_ORDERS.number)[1];
    found.sort((one, other) => key(one) - key(other) || one - other);
    box.replaceChildren();
    replaceContent(place, manyOf(found, conceptCard, box, 48),
      found.length ? null : emptyNote('No concept matches the filters.'));
    if (said) announce(found.length + ' of ' + report.concepts.length + ' concepts');
    keepQuery('concepts', state);
  }
  const input = el('input', { type: 'search', value: state.text,
    oninput: () => { state.text = input.value; fill(true); } });
  const set = (name) => (value) => { state[name] = value; fill(true); };
  add(main, [
    heading('Concepts'),
    el('div', { class: 'filters' },
      field('Name or label', input),
      field('Significant for class', choice([['', 'any or none'], ...report.classes.map((one) =>
        [one.id, className(one.id)])], state.class, set('class'))),
      field('Order by', choice(Object.entries(CONCEPT_ORDERS).map(([key, [text]]) => [key, text]),
        state.order, set('order')))),
    place,
  ]);
  fill(false);
}

function conceptWords(i) {
  const label = report.concepts[i].label;
  if (!label) return conceptName(i);
  const name = conceptName(i).includes(label.name) ? '' : ' ' + label.name;
  return conceptName(i) + name + ' ' + label.category;
}

function conceptCard(i) {
  const concept = report.concepts[i];
  return el('article', { class: 'card' },
    el('h3', {}, conceptLink(i)),
    labelNote(i) ? el('p', {}, labelNote(i)) : null,
    crops(i, 4),
    el('p', { class: 'muted' }, 'In ' + percent(concept.presence) + ' of the images. ',
      verdictOf(i)));
}

function conceptPage(main, i) {
  const concept = report.concepts[i];
  add(main, [
    heading([swatch(i), bdi(conceptName(i))], pager('concept', i, report.concepts.length)),
    el('p', {}, isNamed(i) ? 'Concept ' + i + '. ' : null, verdictOf(i)),
    concept.label ? labelOf(concept.label) : null,
    concept.facts.map(factOf),
    section('Where it is strongest', strongestPlaces(i)),
    section('How often it is detected', facts([
      ['at positions', percent(concept.occupancy)],
      ['in images', percent(concept.presence)],
    ]), el('figure', { class: 'chart' },
      histogram(concept.histogram, concept.color, report.histogramOf),
      el('figcaption', {}, report.histogramOf === 'detection'
        ? 'Share of positions by detection, from 0 (absent) to 1 (present); logarithmic scale.'
        : 'Share of cells of the shown images by coefficient, relative to the largest; ' +
          'logarithmic scale.'))),
    concept.maximised ? section('A picture made for it', maximisedPicture(i)) : null,
    section('Classes', conceptClasses(i),
      el('p', {}, download('Save as CSV', 'concept-' + i + '.csv', 'text/csv',
        () => conceptData(i)))),
    section('Classes that its signal vector points to', pointedClasses(concept)),
    section('Nearest concepts', similarConcepts(concept), nearestConcepts(concept)),
    concept.others.length ? section('In other networks', otherNetworks(concept, i)) : null,
    linksToConnectomes(i),
    section('Name', namingOf(i)),
  ]);
}

/** Returns links to the pages of connectomes that show what makes a concept. */
function linksToConnectomes(i) {
  const own = report.connectomes.filter((one) => one.layer !== null);
  return own.length ? section('What makes it', el('ul', {}, own.map((one) => el('li', {},
    'Concepts of earlier layers, and what it makes: ',
    el('a', { href: one.page + '#' + one.layer + '/' + i }, bdi(one.name)))))) : null;
}

function factOf(fact) {
  return el('div', { class: 'note' }, el('b', {}, bdi(fact.name)), ': ', bdi(fact.text),
    fact.crops ? el('span', { class: 'crops' }, Array.from({ length: fact.crops.count }, (_, k) =>
      crop(fact.crops, k, 'Crop ' + (k + 1) + ': ' + fact.name))) : null);
}

function maximisedPicture(i) {
  const { picture: path, width, height, small } = report.concepts[i].maximised;
  return el('figure', { class: 'chart' },
    el('img', { alt: 'Picture made for ' + conceptName(i), width, height, loading: 'lazy',
      class: small ? 'small' : null, src: pictureUrl(path) }),
    el('figcaption', {}, 'Made by a computer, starting from noise, such that the detector of this ' +
      'concept fires as much as possible and no other one does. It is no photograph.'));
}

/** Returns the classes whose weights are most like the signal vector of a concept. */
function pointedClasses(concept) {
  const byCosine = report.pointedBy === 'cosine';
  const found = concept.pointed.filter((one) => one.value > 0);
  const most = largest(found.map((one) => one.value));
  return [
    found.length ? el('ul', { class: 'bars pointed' }, found.map((one) => el('li', {},
      el('span', {}, classLink(one.class)),
      byCosine ? shareBar(one.value) : signedBar(one.value, most, 3))))
      : emptyNote('None: more of it lowers all of these classes.'),
    el('p', { class: 'muted lead' }, byCosine
      ? 'Cosine of its signal vector with the weights of the class, less their mean over all ' +
        'classes. At 100\u00a0% the two have the same direction; at 0\u00a0% more of the concept ' +
        'does not move the class. This is read from the network and does not depend on the images.'
      : 'Change of the logit, less its mean over classes, by a step of length 1 along the signal ' +
        'vector. The network is not linear after this layer, so the classes have no weights to ' +
        'compare it with.'),
  ];
}

function similarConcepts(concept) {
  if (!concept.similar.length) {
    return emptyNote('No other signal vector has a cosine above ' + report.similarFrom + '.');
  }
  return el('p', {}, 'Signal vectors with a cosine above ' + report.similarFrom + ': ',
    concept.similar.map((one, k) => [k ? ', ' : null, el('a', { href: '#/concept/' + one.concept,
      class: 'similar' }, bdi(conceptName(one.concept))), ' (' + fixed(one.cosine, 2) + ')']), '.');
}

function labelOf(label) {
  return el('p', { class: 'note' }, 'Label from annotations: ', el('b', {}, bdi(label.name)), ' (',
    bdi(label.category), '): IoU ' + fixed(label.iou, 3) + ', precision ' +
    fixed(label.precision, 2) + ', recall ' + fixed(label.recall, 2) + ', average precision ' +
    fixed(label.average_precision, 2) + '.');
}

/** Returns crops, each above its whole image with the concept's map. */
function strongestPlaces(i) {
  const { crops: strip, cropImages } = report.concepts[i];
  if (!strip) return emptyNote('It is not detected in any of the images.');
  const isVideo = Boolean(strip.frames);
  const missing = cropImages.filter((n) => n < 0).length;
  return [el('ol', { class: 'places' }, Array.from({ length: strip.count }, (_, k) => {
    const n = cropImages[k];
    const cut = crop(strip, k, 'Crop ' + (k + 1) + ' of ' + conceptName(i));
    const frames = isStill && strip.frames ? el('img', {
      class: 'strip', alt: 'Frames of crop ' + (k + 1), loading: 'lazy', style: {
        'aspect-ratio': strip.shape,
        'object-position': '0 ' + (strip.count > 1 ? (100 * k) / (strip.count - 1) : 0) + '%',
      }, src: pictureUrl(strip.frames) }) : null;
    if (n < 0) return el('li', {}, cut, frames, el('span', { class: 'caption' }, 
      (isVideo ? 'video' : 'image') + ' not shown'));
    const mapped = mappedPicture(n, describeImage(n) + '; bright where ' + conceptName(i) + ' is',
      true);
    mapped.show(i);
    return el('li', {}, cut, frames, el('a', { href: '#/image/' + n + '?concept=' + i }, mapped.box),
      el('span', { class: 'caption' }, bdi(report.images[n].name)));
  })), missing ? el('p', { class: 'muted' }, 'This report shows ' + report.images.length + ' of ' +
    report.imagesOfAll + (isVideo ? ' videos; ' : ' images; ') +
    count(missing, 'crop is', 'crops are') + ' from others.') : null,
  isVideo ? el('p', { class: 'muted' }, 'Maps are means over time: they stay while videos move.')
    : null];
}

function conceptClasses(i) {
  const most = largest(report.classes.map((one) => one.contributions[i]));
  const furthest = largest(report.classes.map((one) => one.effects[i]));
  return [
    sortableTable('Effect on and contribution to each class', [
      { title: 'class', type: 'text', rising: true },
      ...effectColumns(),
      { title: 'in its images', hint: 'share of the images of the class with the concept' },
      { title: 'in other images', hint: 'share of the images of other classes with the concept' },
    ], report.classes.map((one) => [
      { node: classLink(one.id), value: className(one.id) },
      ...effectCells(one, i, furthest, most),
      { node: percent(one.presence[i]), value: one.presence[i] },
      { node: percent(one.outside[i]), value: one.outside[i] },
    ]), { sortBy: 1 }),
    el('p', { class: 'muted' }, '\u25cf: significant after correction for all tests ' +
      '(Benjamini\u2013Hochberg); \u25cb: only without correction. p: ' + report.influence.test +
      '.'),
  ];
}

function nearestConcepts(concept) {
  if (!concept.nearest.length) return emptyNote('There is no other concept.');
  const filters = concept.nearest[0].filter !== null;
  return sortableTable('Concepts that are most alike: in signal vector, or in where they are', [
    { title: 'concept', type: 'text', rising: true },
    { title: 'crops', type: 'text' },
    { title: 'signal vectors', hint: 'cosine of the encoding directions' },
    ...(filters ? [{ title: 'filters', hint: 'cosine of the decoding directions' }] : []),
    { title: 'detected together', hint: 'positions with both, as a share of those with either' },
  ], concept.nearest.map((near) => [
    { node: conceptLink(near.concept), value: conceptName(near.concept) },
    { node: crops(near.concept, 3), value: near.concept },
    { node: signed(near.signal), value: near.signal },
    ...(filters ? [{ node: signed(near.filter), value: near.filter }] : []),
    { node: percent(near.overlap), value: near.overlap },
  ]));
}

/** Returns the nearest concept of each other network, with its crops beside those of concept i. */
function otherNetworks(concept, i) {
  return [
    sortableTable('The most similar concept of each other network', [
      { title: 'network', type: 'text', rising: true },
      { title: 'its concept', type: 'text' },
      { title: 'this concept', type: 'text' },
      { title: 'its nearest there', type: 'text' },
      { title: 'correlation', hint: 'of the coefficients over positions' },
      { title: '\u03c6', hint: 'of the detections: 1 at the same positions, 0 at chance' },
      { title: 'the same', type: 'text' },
    ], concept.others.map((near) => [
      { node: bdi(near.network), value: near.network },
      { node: bdi(near.concept), value: near.concept },
      { node: crops(i, 4), value: i },
      { node: cropsOf(near.crops, 4, near.concept + ' of ' + near.network), value: near.concept },
      { node: signed(near.correlation), value: near.correlation },
      { node: signed(near.phi), value: near.phi },
      { node: near.same ? 'yes' : 'no', value: near.same ? 'yes' : 'no' },
    ])),
    el('p', { class: 'muted' }, 'Concepts are matched on half of the images by where they are; ' +
      'figures are of the other half. \u201cThe same\u201d: found again there, and more often ' +
      'together than by chance.'),
  ];
}

/** Returns links to the previous and the next page of the same kind. */
function pager(kind, place, total, ids) {
  const id = (k) => (ids ? ids[k] : k);
  const link = (k, text, sign) => (k < 0 || k >= total
    ? el('span', { class: 'quiet', 'aria-hidden': 'true' }, sign)
    : el('a', { class: 'quiet', href: '#/' + kind + '/' + id(k), 'aria-label': text + ' ' + kind },
      sign));
  return el('span', { class: 'pager' }, link(place - 1, 'Previous', '\u2190'),
    el('span', { class: 'muted' }, place + 1 + '\u202f/\u202f' + total),
    link(place + 1, 'Next', '\u2192'));
}
