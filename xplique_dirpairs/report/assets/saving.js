// Files that the page saves: data of a concept, and names that the user gives to concepts.

/** Returns a link that saves a text, made when it is followed, as a file. */
function download(text, name, type, make) {
  const link = el('a', { class: 'quiet', download: name }, text);
  const fill = () => {
    link.href = 'data:' + type + ';charset=utf-8,' + encodeURIComponent(make());
  };
  fill();
  link.addEventListener('click', (event) => {
    event.stopPropagation(); // because it does not lead to another page
    fill();
  });
  return link;
}

/** Returns rows of texts and numbers as comma-separated values. */
function csv(rows) {
  const cell = (value) => {
    if (value === null || value === undefined) return '';
    const text = String(value);
    return /[",\r\n]/.test(text) ? '"' + text.replaceAll('"', '""') + '"' : text;
  };
  return rows.map((row) => row.map(cell).join(',')).join('\r\n') + '\r\n';
}

/** Returns what the report knows of a concept and each class, as comma-separated values. */
function conceptData(i) {
  const head = ['concept', 'name', 'class', 'class name', 'images', 'effect (logits)', 'interval (+-)',
    'unit effect', 'p', 'test', 'contribution (logits)', 'in its images', 'in other images'];
  return csv([head, ...report.classes.map((one) => [i, conceptName(i), one.id, className(one.id),
    one.images, one.effects[i], one.intervals[i], one.units[i], one.p[i],
    i in one.untested ? 'not tested: ' + one.untested[i] : gradeWords(one.significance[i]),
    one.contributions[i], one.presence[i], one.outside[i]])]);
}

// ------------------------------------------------------------------------------ names

let hasUnsavedNames = false;

/** Returns the names of all concepts that have one, in the form of the file names.json. */
function namesFile() {
  const all = report.concepts.map((concept, i) => [String(i), concept.name]);
  return JSON.stringify(Object.fromEntries(all.filter(([number, name]) => name !== number)), null, 1);
}

/** Returns a field in which the user names a concept, and a link that saves all names. */
function namingOf(i) {
  const input = el('input', { type: 'text', value: isNamed(i) ? report.concepts[i].name : '',
    placeholder: 'for example: wheel', autocomplete: 'off' });
  const save = download('Save names.json', 'names.json', 'application/json', namesFile);
  save.addEventListener('click', () => { hasUnsavedNames = false; });
  input.addEventListener('input', () => {
    report.concepts[i].name = input.value.trim() || String(i);
    hasUnsavedNames = true;
    forgetSearch();
    replaceContent(document.querySelector('h1'), swatch(i), bdi(conceptName(i)));
  });
  return [
    el('div', { class: 'filters naming' }, field('Name of this concept', input), save),
    el('p', { class: 'muted lead' }, 'Name as many concepts as you like, and save the names once. ' +
      'The commands, and later reports, read them from a file names.json beside the pairs ' +
      '(pairs.npz). Names that are not saved are lost when this page is closed.'),
  ];
}

function isNamed(i) {
  return report.concepts[i].name !== String(i);
}

window.addEventListener('beforeunload', (event) => {
  if (hasUnsavedNames) event.preventDefault();
});
