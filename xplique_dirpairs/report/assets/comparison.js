// The page that compares extractors: the tables of a comparison.

function comparisonPage(main) {
  add(main, [heading('Comparison'), report.tables.map((table, k) => el('section', {},
    comparisonTable(table, k), columnMeanings(table))), comparisonNotes()]);
}

function comparisonTable(table, k) {
  const columns = table.headers.map((title, column) => ({
    title, type: column === 0 ? 'text' : 'number', hint: report.metrics[title],
    rising: column === 0 || title.endsWith('\u2193'),
  }));
  const rows = table.rows.map((cells) => cells.map((cell, column) => ({
    node: cell.best ? el('strong', {}, cell.text, el('span', { class: 'hidden' }, ' (best)'))
      : cell.text,
    value: cell.numbers.length ? cell.numbers[0] : column === 0 ? cell.text : null,
  })));
  return sortableTable('Table ' + (k + 1) + ': ' + table.headers.slice(1).join(', '), columns, rows);
}

function columnMeanings(table) {
  const known = table.headers.filter((title) => report.metrics[title]);
  if (!known.length) return null;
  return el('details', {}, el('summary', {}, 'What the columns mean'),
    el('dl', {}, known.map((title) => [el('dt', {}, title), el('dd', {}, report.metrics[title])])));
}

/** Returns the notes of all tables, without repetitions. */
function comparisonNotes() {
  const notes = [...new Set(report.tables.flatMap((table) => table.caption))];
  return notes.length ? section('Notes', el('ul', {}, notes.map((note) => el('li', {}, note))))
    : null;
}
