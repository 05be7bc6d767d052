// The crops of a concept, fanned out in front of the page.

/** Opens all crops of a concept; Escape, the button and a click beside them close it again. */
function openFan(i) {
  const { crops: strip, cropImages } = report.concepts[i];
  const cards = Array.from({ length: strip.count }, (_, k) => {
    const cut = crop(strip, k, 'Crop ' + (k + 1) + ' of ' + conceptName(i));
    const n = cropImages[k];
    return el('li', { style: { '--place': k % 5 - 2 } }, n < 0 ? cut
      : el('a', { href: '#/image/' + n + '?concept=' + i, title: report.images[n].name }, cut));
  });
  const close = el('button', { type: 'button', class: 'quiet', onclick: () => dialog.close() },
    'Close');
  const dialog = el('dialog', { class: 'fan', 'aria-label': 'Crops of ' + conceptName(i),
    onclick: (event) => {
      if (event.target === dialog || event.target.closest('a')) dialog.close();
    }, onclose: () => dialog.remove() },
  el('div', { class: 'heading' }, el('h2', {}, conceptLink(i)), close),
  el('ol', {}, cards),
  el('p', { class: 'muted' }, 'The ' + (strip.count > 1 ? strip.count + ' places' : 'place') +
    ' where it is strongest, best first, at most one in each image. Choose one to see its image.'));
  document.body.append(dialog);
  dialog.showModal();
}
