// The page of all shown images, and the page of each of them.

function imagesPage(main, query) {
  const state = { text: query.get('text') || '', class: query.get('class') || '',
    concept: query.get('concept') || '', wrong: query.get('wrong') || '' };
  const place = el('div');
  const box = el('ul', { class: 'gallery' });
  const inside = conceptsInside();
  function fill(said) {
    const wanted = state.text.trim().toLowerCase();
    const found = report.images.map((_, n) => n).filter((n) => {
      const image = report.images[n];
      return (state.class === '' || image.label === Number(state.class)) &&
        (state.wrong === '' || image.label !== image.likeliest[0]) &&
        (state.concept === '' || inside(n).has(Number(state.concept))) &&
        image.name.toLowerCase().includes(wanted);
    });
    box.replaceChildren();
    replaceContent(place, manyOf(found, imageTile, box),
      found.length ? null : emptyNote('No image matches the filters.'));
    if (said) announce(found.length + ' of ' + report.images.length + ' images');
    keepQuery('images', state);
  }
  const set = (name) => (value) => { state[name] = value; fill(true); };
  const input = el('input', { type: 'search', value: state.text,
    oninput: () => set('text')(input.value) });
  const wrong = el('input', { type: 'checkbox', checked: state.wrong !== '',
    onchange: () => set('wrong')(wrong.checked ? '1' : '') });
  const shown = [...new Set(report.images.map((image) => image.label))];
  add(main, [
    heading('Images'),
    report.images.length < report.imagesOfAll ? el('p', { class: 'muted' },
      report.images.length + ' of ' + report.imagesOfAll +
      ' images are shown; numbers are computed from all of them.')
      : null,
    el('div', { class: 'filters' },
      field('Name', input),
      field('Class', choice([['', 'any'], ...shown.map((id) => [id, className(id)])],
        state.class, set('class'))),
      field('Strong contribution of', choice([['', 'any concept'], ...report.concepts.map((_, i) =>
        [i, conceptName(i)])], state.concept, set('concept'))),
      el('label', { class: 'check' }, wrong, 'predicted wrongly')),
    place,
  ]);
  fill(false);
}

/** Returns a function from an image to the set of its five strongest concepts. */
function conceptsInside() {
  const known = new Map();
  return (n) => {
    if (!known.has(n)) known.set(n, new Set(bySize(report.images[n].contributions).slice(0, 5)));
    return known.get(n);
  };
}

/** Returns the indices of values by size, largest first; values of 0 are left out. */
function bySize(values) {
  return values.map((value, i) => [Math.abs(value || 0), i]).filter(([size]) => size > 0)
    .sort((one, other) => other[0] - one[0]).map(([, i]) => i);
}

function imageTile(n) {
  const image = report.images[n];
  const right = image.likeliest[0] === image.label;
  return el('li', {}, el('a', { href: '#/image/' + n },
    picture(n, describeImage(n)),
    el('span', { class: 'caption' }, bdi(image.name)),
    el('span', { class: right ? 'caption muted' : 'caption wrong' },
      right ? bdi(className(image.label))
        : [bdi(className(image.label)), ' \u2192 ', bdi(className(image.likeliest[0]))])));
}

function imagePage(main, n, query) {
  const image = report.images[n];
  const mapped = mappedPicture(n, describeImage(n), false);
  const asked = query.get('concept');
  add(main, [
    heading(bdi(image.name), pager('image', n, report.images.length)),
    hasLabels() ? el('p', {}, 'Class ', classLink(image.label), ', predicted ',
      image.likeliest[0] === image.label ? 'correctly.' : ['as ', classLink(image.likeliest[0]),
        '.']) : el('p', {}, 'Predicted as ', classLink(image.likeliest[0]), '.'),
    el('div', { class: 'columns' },
      el('section', { class: 'stage' }, el('h2', {}, 'Where the concepts are'), mapped.box,
        image.frames ? el('p', { class: 'muted' }, 'Mean over time: the map stays while the video moves.') : null,
        mapChooser(n, mapped, asked === null ? null : Number(asked))),
      el('section', {}, el('h2', {}, 'What the network predicts'), likeliestOf(image),
        el('h2', {}, 'Which concepts contribute'), contributionsOf(image))),
    image.frames ? section('Over time', overTime(n, image)) : null,
    image.diagnosis ? section('Which parts look like which class, layer by layer',
      diagnosisOf(image)) : null,
    image.change ? section('What would change the prediction', changeOf(image)) : null,
  ]);
}

/** Returns frames of a video above what its strongest concepts contribute at their time. */
function overTime(n, image) {
  const total = image.frameCount;
  const shown = Array.from({ length: Math.min(8, total) }, (_, k) =>
    1 + Math.floor(((k + 0.5) * total) / Math.min(8, total)));
  const frames = [el('img', { class: 'frames' + (image.small ? ' small' : ''),
    alt: 'Frames of ' + image.name, loading: 'lazy', src: pictureUrl(image.frames) }),
  el('p', { class: 'muted' }, 'Frames ' + shown.join(', ') + ' of ' + total)];
  if (!image.overTime) return frames;
  const strongest = bySize(image.contributions).slice(0, 5);
  const parts = image.overTime.length;
  const frameAt = (k) => Math.floor((k * total) / parts);
  const covered = (k) => {
    const [first, last] = [frameAt(k) + 1, Math.max(frameAt(k) + 1, frameAt(k + 1))];
    return first === last ? 'frame ' + first : 'frames ' + first + '\u2013' + last;
  };
  const most = largest(strongest.map((i) => largest(image.overTime.map((row) => row[i]))));
  const digits = most > 0 ? Math.min(9, Math.max(2, 1 - Math.floor(Math.log10(most)))) : 2;
  return [frames, el('div', { class: 'wide' }, el('table', { class: 'time' },
    el('caption', {}, 'Parts of the logit of ', bdi(className(image.likeliest[0]))),
    el('thead', {}, el('tr', {}, el('th', { class: 'text' }, 'concept'),
      image.overTime.map((_, k) => el('th', { scope: 'col' }, covered(k))))),
    el('tbody', {}, strongest.map((i) => el('tr', {},
      el('th', { scope: 'row', class: 'text' }, conceptLink(i)),
      image.overTime.map((row) => el('td', {}, signed(row[i], digits))))))))];
}

function likeliestOf(image) {
  return el('ul', { class: 'bars' }, image.likeliest.map((id, k) => el('li', {},
    el('span', {}, classLink(id)), shareBar(image.probabilities[k]))));
}

/** Returns buttons that show where a concept is. */
function mapChooser(n, mapped, asked) {
  const box = el('div', { class: 'chips', role: 'group', 'aria-label': 'Concepts in the image' });
  const said = el('p', { class: 'muted' }, 'Choose a concept to see where it is.');
  mapsOf(n).then((maps) => {
    const rank = bySize(report.images[n].contributions);
    const there = maps.concepts.slice().sort((one, other) => rank.indexOf(one) -
      rank.indexOf(other));
    const buttons = new Map();
    const press = (i) => {
      const on = buttons.get(i).getAttribute('aria-pressed') !== 'true';
      buttons.forEach((button) => button.setAttribute('aria-pressed', 'false'));
      buttons.get(i).setAttribute('aria-pressed', String(on));
      mapped.show(on ? i : null);
      replaceContent(said, on ? [bdi(conceptName(i)), ' is where the ' +
        (report.images[n].frames ? 'video' : 'image') + ' has its colour: ' +
        percent(shareOfCells(maps, i)) + ' of it.'] : 'Choose a concept to see where it is.');
    };
    for (const i of there) {
      buttons.set(i, el('button', { type: 'button', 'aria-pressed': 'false',
        onclick: () => press(i) }, swatch(i), bdi(conceptName(i))));
    }
    add(box, [...buttons.values()]);
    if (!there.length) replaceContent(said, 'No concept is detected in this image.');
    else press(buttons.has(asked) ? asked : there[0]);
  }, (error) => replaceContent(said, error.message));
  return [box, said];
}

function shareOfCells(maps, i) {
  const size = maps.width * maps.height;
  const start = maps.concepts.indexOf(i) * size;
  return maps.cells.slice(start, start + size).filter((value) => value > 0).length / size;
}

/** Returns a table of the parts of the logit with bars, the strongest concepts first. */
function contributionsOf(image) {
  const order = bySize(image.contributions);
  const [first, others] = [order.slice(0, 8), order.slice(8)];
  const rest = others.reduce((sum, i) => sum + image.contributions[i], 0);
  const total = image.contributions.reduce((sum, value) => sum + (value || 0), 0);
  const gap = image.score - image.residual - total;
  const most = Math.max(Math.abs(image.residual), Math.abs(rest), largest(image.contributions));
  const row = (what, value, kind) => el('tr', { class: kind },
    el('th', { scope: 'row', class: 'text' }, what), el('td', {}, signedBar(value, most)));
  const all = el('tbody', { hidden: true }, others.map((i) =>
    row(conceptLink(i), image.contributions[i])));
  const toggle = el('button', { type: 'button', class: 'quiet', 'aria-expanded': 'false',
    onclick: () => {
      all.hidden = !all.hidden;
      toggle.setAttribute('aria-expanded', String(!all.hidden));
    } }, count(others.length, 'other concept'));
  return el('table', { class: 'waterfall' },
    el('caption', {}, 'Parts of the logit of ', bdi(className(image.likeliest[0]))),
    el('tbody', {}, first.map((i) => row(conceptLink(i), image.contributions[i])),
      others.length ? row(toggle, rest) : null),
    all,
    el('tbody', {}, row('without any concept', image.residual),
      Math.abs(gap) >= 0.005 ? row('not accounted for', gap) : null,
      el('tr', { class: 'total' }, el('th', { scope: 'row', class: 'text' }, 'logit'),
        el('td', {}, el('span', { class: 'number' }, fixed(image.score, 2))))));
}

function diagnosisOf(image) {
  const { picture, width, height, text } = image.diagnosis;
  return el('figure', { class: 'chart', style: { 'max-width': width + 'px' } },
    el('img', { alt: 'The image at each layer: ' + text, width, height, loading: 'lazy',
      src: pictureUrl(picture) }),
    el('figcaption', {}, 'The image is divided into parts, and each part is given to the class ' +
      'whose connectome has the concept nearest to it. Shares of the image at each layer, from ' +
      'the first to the last: ', bdi(text)));
}

function changeOf(image) {
  const change = image.change;
  if (change.status === 'already the target') {
    return el('p', {}, 'Nothing needs to change: the image is predicted as the target already.');
  }
  const found = change.status === 'changed';
  const moved = change.concepts.map((i, k) => {
    const [before, after] = [change.before_means[k], change.after_means[k]];
    const digits = digitsThatDiffer(before, after);
    return el('li', {}, conceptLink(i), after > before ? ' raised' : ' lowered', ' from ' +
      fixed(before, digits) + ' to ' + fixed(after, digits));
  });
  return [
    el('p', {}, found
      ? ['The image would be predicted as ', classLink(change.after), ' with this change:']
      : 'No change of so few concepts, within the coefficients of real images, changes the ' +
        'prediction.' + (moved.length ? ' The nearest attempt:' : '')),
    moved.length ? el('ul', {}, moved) : null,
    moved.length ? el('p', { class: 'muted' }, 'The numbers are coefficients, means over the ' +
      'image. ' + (found ? 'This is the smallest change found. ' : '') + 'It changes the features by ' +
      percent(change.changed) + '; their distance is then ' + (Math.round(change.percentile) === 0
      ? 'below the training images\u2019 distances. ' : 'at the ' + ordinal(change.percentile) +
      ' percentile of the training images\u2019 distances. '),
    el('a', { href: '#/help' }, 'How to read this')) : null,
  ];
}
