// The page of all classes, and the page of each class.

function classesPage(main) {
  const rows = report.classes.map((one) => {
    const [up, down] = strongest(one.effects, 1);
    const best = (found) => (found.length ? conceptLink(found[0]) : '\u2013');
    const value = (found) => (found.length ? one.effects[found[0]] : null);
    return [
      { node: classLink(one.id), value: className(one.id) },
      { node: one.images, value: one.images },
      { node: percent(one.accuracy), value: one.accuracy },
      { node: fixed(one.logit, 2), value: one.logit },
      { node: fixed(one.residual, 2), value: one.residual },
      { node: significantConcepts(one),
        value: one.significance.filter((grade) => grade === 2).length },
      { node: best(up), value: value(up) },
      { node: best(down), value: value(down) },
    ];
  });
  const filter = (text) => rows.filter((row) =>
    row[0].value.toLowerCase().includes(text.trim().toLowerCase()));
  const place = el('div');
  const fill = (text) => {
    const found = filter(text);
    replaceContent(place, found.length ? sortableTable('Classes', [
      { title: 'class', type: 'text', rising: true },
      { title: 'images' },
      { title: 'accuracy', hint: 'share of its images that are predicted correctly' },
      { title: 'logit', hint: 'mean over its images' },
      { title: 'without concepts', hint: 'mean logit with every concept off' },
      { title: 'significant concepts', hint: 'number of concepts whose direction is significant' },
      { title: 'strongest for it', type: 'text' },
      { title: 'strongest against it', type: 'text' },
    ], found) : emptyNote('No class has this text in its name.'));
    return found.length;
  };
  fill('');
  const input = el('input', { type: 'search', oninput: () =>
    announce(fill(input.value) + ' of ' + rows.length + ' classes') });
  add(main, [heading('Classes'), el('div', { class: 'filters' }, field('Filter classes', input)),
    place]);
}

/** Returns the number of significant concepts of those tested; a dash if none was tested. */
function significantConcepts(one) {
  const tested = one.significance.filter((grade) => grade >= 0).length;
  if (!tested) {
    return el('span', { class: 'reason' }, 'not tested: ', [...new Set(Object.values(one.untested))]
      .join('; '));
  }
  if (!report.influence.reachable) return 'not tested: too few noise vectors';
  return one.significance.filter((grade) => grade === 2).length + ' of ' + tested;
}

function classPage(main, id) {
  const one = report.classes[placeOfClass(id)];
  const ids = report.classes.map((other) => other.id);
  const [up, down] = strongest(one.effects, 6);
  const most = largest(one.effects);
  const sum = one.contributions.reduce((total, value) => total + (value || 0), 0);
  const list = (found, nothing) => (found.length
    ? el('ol', { class: 'ranking' }, found.map((i) => classConcept(one, i, most)))
    : emptyNote(nothing));
  add(main, [
    heading(bdi(className(id)), pager('class', placeOfClass(id), ids.length, ids)),
    facts([
      ['images', one.images],
      hasLabels() ? ['predicted correctly', percent(one.accuracy)] : null,
      ['mean logit', fixed(one.logit, 2)],
      ['contributed by concepts', signed(sum)],
      ['without concepts', fixed(one.residual, 2)],
    ]),
    el('div', { class: 'columns' },
      section('Concepts for this class', list(up, 'None.')),
      section('Concepts against this class', list(down, 'None.'))),
    one.confusions.map((found) => section(['For and against ',
      classLink(found.target), ' instead of it'], confusionOf(found))),
    one.extractors.length ? section('Concepts of each extractor', extractorsOf(one)) : null,
    section('All concepts', classTable(one)),
    section('Images by the concepts of their prediction', arrangementOf(id) || emptyNote(
      'Fewer than 5 of the shown images are predicted as this class: too few to arrange.')),
    section('Images', imagesOfClass(id)),
  ]);
}

function classConcept(one, i, most) {
  return el('li', {},
    crops(i, 3),
    el('span', { class: 'what' }, conceptLink(i), labelNote(i),
      signedBar(one.effects[i], most),
      el('span', { class: 'muted' }, plusMinus(one.intervals[i]),
        one.significance[i] > 0 ? stars(one.significance[i]) : null,
        one.significance[i] === 0 ? ' (not significant)' : null,
        i in one.untested ? ' (not tested: ' + one.untested[i] + ')' : null, ' \u00b7 contribution ' +
        signed(one.contributions[i]) + ' \u00b7 in ' + percent(one.presence[i]) +
        ' of the images of the class, ' + percent(one.outside[i]) + ' of the others')));
}

function labelNote(i) {
  const label = report.concepts[i].label;
  if (!label || conceptName(i).includes(label.name)) return null; // the name says it already
  return el('span', { class: 'muted' }, ' labelled ', bdi(label.name));
}

function confusionOf(found) {
  const [up, down] = strongest(found.contributions, 3);
  const most = largest(found.contributions);
  return [
    el('p', {}, 'Its logit minus the logit of this class is ' + signed(found.difference) +
      ' on average; ' + found.confused + ' of ' + count(found.images, 'image') +
      ' are predicted as it.'),
    el('ol', { class: 'ranking' }, [...up, ...down].map((i) => el('li', {}, crops(i, 2),
      el('span', { class: 'what' }, conceptLink(i), labelNote(i),
        signedBar(found.contributions[i], most))))),
  ];
}

function extractorsOf(one) {
  return [
    el('p', { class: 'muted' }, 'Contribution of each extractor\u2019s concepts to the class\u2019s ' +
      'logit, measured by switching them off one by one: means over its images in the comparison.'),
    el('div', { class: 'cards' }, one.extractors.map((extractor) => {
      const most = largest(extractor.concepts.map((found) => found.contribution));
      return el('article', { class: 'card' }, el('h3', {}, bdi(extractor.name)),
        extractor.concepts.length ? null : emptyNote('None.'),
        extractor.concepts.map((found) => el('div', { class: 'row' },
          el('span', { class: 'crops' }, found.crops
            ? Array.from({ length: Math.min(2, found.crops.count) }, (_, k) => crop(found.crops, k,
              'Crop ' + (k + 1) + ' of concept ' + found.concept + ' of ' + extractor.name))
            : null),
          el('span', {}, 'concept ' + found.concept),
          signedBar(found.contribution, most))));
    })),
  ];
}

function classTable(one) {
  const most = largest(one.contributions);
  const furthest = largest(one.effects);
  return sortableTable('All concepts and ' + className(one.id), [
    { title: 'concept', type: 'text', rising: true },
    ...effectColumns(),
    { title: 'in its images', hint: 'share of its images with the concept' },
    { title: 'in other images', hint: 'share of the images of other classes with the concept' },
  ], report.concepts.map((_, i) => [
    { node: conceptLink(i), value: i },
    ...effectCells(one, i, furthest, most),
    { node: percent(one.presence[i]), value: one.presence[i] },
    { node: percent(one.outside[i]), value: one.outside[i] },
  ]), { sortBy: 1 });
}

function imagesOfClass(id) {
  const own = report.images.map((_, n) => n).filter((n) => report.images[n].label === id);
  if (!own.length) return emptyNote('None of its images are shown in this report.');
  return [
    el('ul', { class: 'gallery' }, own.slice(0, 12).map(imageTile)),
    own.length > 12 ? el('p', {}, el('a', { href: '#/images?class=' + id },
      'All ' + own.length + ' images')) : null,
  ];
}
