// Small charts of the data: bars, histograms, crops, and concept maps over images.

/** Returns a number with a bar from a middle line: to the right above 0, to the left below 0. */
function signedBar(value, most, digits = 2) {
  const share = most > 0 && value !== null ? Math.min(1, Math.abs(value) / most) : 0;
  const side = value >= 0 ? 'for' : 'against';
  // Large numbers have fewer digits after the point, so that they fit beside the bar.
  const whole = Math.floor(Math.log10(Math.abs(value) || 1));
  // Where all values are small, they have one more.
  const more = most > 0 && most < 0.1 ? 1 : 0;
  const shown = Math.max(0, Math.min(digits, 3 - whole)) + more;
  return el('span', { class: 'signed' },
    el('span', { class: 'track', 'aria-hidden': 'true' },
      el('span', { class: 'fill ' + side, style: { width: 50 * share + '%' } })),
    el('span', { class: 'number' }, signed(value, shown)));
}

/** Returns a share of 1 as a percentage with a bar. */
function shareBar(value, color) {
  return el('span', { class: 'share' },
    el('span', { class: 'track', 'aria-hidden': 'true' },
      el('span', { class: 'fill', style: {
        width: 100 * Math.max(0, Math.min(1, value || 0)) + '%', background: color || null,
      } })),
    el('span', { class: 'number' }, percent(value)));
}

/** Returns what a grade of significance means, in words. */
function gradeWords(grade) {
  if (grade < 0) return 'not tested';
  return ['not significant', 'significant only without correction', 'significant'][grade];
}

/** Returns a symbol for a grade of significance, with text for screen readers. */
function stars(grade) {
  if (grade < 1) return el('span', { class: 'stars' });
  const words = gradeWords(grade);
  return el('span', { class: 'stars', title: words },
    el('span', { 'aria-hidden': 'true' }, grade === 2 ? '\u25cf' : '\u25cb'),
    el('span', { class: 'hidden' }, ' (' + words + ')'));
}

/** Returns half the length of the interval of an effect, as text. */
function plusMinus(half) {
  return half === null ? '\u2013' : '\u00b1\u202f' + fixed(half, 2);
}

/** Returns the columns of a table that `effectCells` fills. */
function effectColumns() {
  return [
    { title: 'effect', hint: 'on the logit less the mean over classes: unit effect \u00d7 ' +
      'coefficient, mean over the images of the class' },
    { title: '\u00b1', hint: '95\u00a0% interval of the effect over the images of the class' },
    { title: 'unit effect', hint: 'change of this logit for one unit of length' },
    { title: 'p', hint: report.influence.test, rising: true },
    { title: 'contribution', hint: 'to the logit, mean over the images of the class' },
  ];
}

/** Returns the cells of a concept's effect on a class: why it was not tested in place of its p. */
function effectCells(one, i, mostEffect, mostContribution) {
  const reason = one.untested[i];
  return [
    { node: [signedBar(one.effects[i], mostEffect), stars(one.significance[i])],
      value: one.effects[i] },
    { node: plusMinus(one.intervals[i]), value: one.intervals[i] },
    { node: signed(one.units[i], 3), value: one.units[i] },
    { node: reason ? el('span', { class: 'reason' }, 'not tested: ' + reason)
      : [pValue(one.p[i]), one.significance[i] === 0
        ? el('span', { class: 'reason short' }, ' not significant') : null],
      value: one.p[i] },
    { node: signedBar(one.contributions[i], mostContribution), value: one.contributions[i] },
  ];
}

/** Returns a histogram on a logarithmic scale, on which rare values are visible. */
function histogram(shares, color, what) {
  const [width, height, foot] = [320, 110, 20];
  const bar = width / shares.length;
  const floor = 1e-4;
  const tall = (share) => (share > floor ? 1 - Math.log10(share) / Math.log10(floor) : 0) * height;
  const above = shares.slice(shares.length / 2).reduce((sum, share) => sum + share, 0);
  return el('svg', {
    class: 'histogram', viewBox: '-38 -8 360 ' + (height + foot + 8), role: 'img',
    'aria-label': 'Histogram of positions by ' + what + ', from 0 to 1: ' + percent(above) +
      ' are in the upper half, ' + percent(shares[0]) + ' in the lowest bin.',
  },
  [0.001, 0.01, 0.1, 1].map((share) => {
    const y = height - tall(share);
    return [el('line', { x1: 0, x2: width, y1: y, y2: y, class: 'grid' }),
      el('text', { x: -5, y: y + 3, 'text-anchor': 'end' }, 100 * share + '\u00a0%')];
  }),
  shares.map((share, k) => el('rect', {
    x: k * bar + 1, width: bar - 2, y: height - tall(share), height: tall(share), fill: color,
  })),
  el('line', { x1: 0, x2: width, y1: height, y2: height, class: 'axis' }),
  [0, 0.5, 1].map((value) => el('text', {
    x: value * width, y: height + 14,
    'text-anchor': value === 0 ? 'start' : value === 1 ? 'end' : 'middle',
  }, value)));
}

/** Returns one of the crops that are stored side by side in one picture. */
function crop(strip, k, alt) {
  const place = strip.count > 1 ? (100 * k) / (strip.count - 1) : 0;
  // Firefox ignores `loading` unless it is set before `src`.
  return el('img', {
    class: 'crop' + (strip.small ? ' small' : ''), alt, loading: 'lazy', decoding: 'async',
    style: { 'object-position': place + '% 0' }, src: pictureUrl(strip.picture),
  });
}

/** Returns the first crops of a concept on a button that fans out all of them; "none" if none. */
function crops(i, most) {
  return cropsOf(report.concepts[i].crops, most, conceptName(i), i);
}

/** Returns the first crops of a strip, or "none" if there is none; a button if they fan out. */
function cropsOf(strip, most, name, fan = null) {
  if (!strip) return el('span', { class: 'nocrop muted', title: 'not detected in any image' }, 'none');
  const all = Array.from({ length: Math.min(most, strip.count) }, (_, k) =>
    crop(strip, k, 'Crop ' + (k + 1) + ' of ' + name));
  return fan === null ? el('span', { class: 'crops' }, all)
    : el('button', { type: 'button', class: 'crops', onclick: () => openFan(fan),
      'aria-haspopup': 'dialog', 'aria-label': 'All crops of ' + name }, all);
}

function picture(n, alt, lazy = true) {
  const image = report.images[n];
  return el('img', {
    alt, width: image.width, height: image.height, class: image.small ? 'small' : null,
    loading: lazy ? 'lazy' : null, decoding: 'async', src: pictureUrl(image.picture),
  });
}

/** Returns whether classes are labels: without labels they are what the network predicts. */
function hasLabels() {
  return report.classes.some((one) => one.accuracy !== null);
}

function describeImage(n) {
  const image = report.images[n];
  const predicted = className(image.likeliest[0]);
  const what = (image.frames ? 'Video ' : 'Image ') + image.name;
  if (!hasLabels()) return what + ', predicted as ' + predicted;
  return what + ', of class ' + className(image.label) +
    (image.likeliest[0] === image.label ? ', predicted correctly' : ', predicted as ' + predicted);
}

/** Returns an image that is dark except where a concept is; `show(i)` sets the concept or null. */
function mappedPicture(n, alt, lazy) {
  const canvas = el('canvas', { 'aria-hidden': 'true' });
  const box = el('span', { class: 'mapped' }, picture(n, alt, lazy), canvas);
  let wanted = null;
  async function show(i) {
    wanted = i;
    const maps = i === null ? null : await mapsOf(n);
    if (wanted === i) drawMap(canvas, maps, i);
  }
  return { box, show };
}

function drawMap(canvas, maps, i) {
  const place = maps ? maps.concepts.indexOf(i) : -1;
  canvas.hidden = i === null;
  if (i === null) return;
  canvas.width = maps.width;
  canvas.height = maps.height;
  const pen = canvas.getContext('2d');
  const pixels = pen.createImageData(maps.width, maps.height);
  const size = maps.width * maps.height;
  const color = [1, 3, 5].map((k) => parseInt(report.concepts[i].color.slice(k, k + 2), 16));
  for (let cell = 0; cell < size; cell += 1) {
    const value = place < 0 ? 0 : maps.cells[place * size + cell] / 255;
    // The cell is covered with the concept's colour where the concept is, otherwise with black.
    const rgb = value > 0 ? color : [0, 0, 0];
    pixels.data.set([...rgb, value > 0 ? 40 + 130 * value : 110], 4 * cell);
  }
  pen.putImageData(pixels, 0, 0);
}
