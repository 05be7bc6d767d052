// How to read the report.

const WORDS = [
  ['Concept', 'A direction in the features of one layer that was found from images alone. Its ' +
    'name is a number, or what annotations or people call it: crops show what it is.'],
  ['Detection', 'Whether a concept is at a position of the feature map, from 0 to 1: a filter\u2019s ' +
    'answer above or below its bias.'],
  ['Map', 'Where in an image a concept is, and how strongly. The rest is dark.'],
  ['Contribution', 'How much of a class\u2019s logit is there because of the concept, as it is in ' +
    'the images. Contributions and what is left without any concept add up to the logit.'],
  ['Influence', 'What more of a concept would do: the mean change of log p when features are moved ' +
    'along its signal vector. It asks the network, whatever is in the images.'],
  ['SC', 'Share of the images that more of the concept helps, minus the share it hurts.'],
  ['Significant', 'Noise directions, made in the same way from permuted detections, do not have ' +
    'such an influence. \u25cf corrected for the number of tests, \u25cb not.'],
  ['Signal vector', 'How features change where the concept is: what is written.'],
  ['Filter', 'What reads whether the concept is there.'],
  ['Without concepts', 'The logit with every concept off: what the concepts do not explain, the ' +
    'residual, and the class\u2019s bias.'],
  ['Coefficient', 'How much of a concept there is at a position: by how much its signal vector ' +
    'is added there.'],
  ['What would change it', 'The least change of the coefficients of a few concepts, the same ' +
    'everywhere in the image, with which the network says something else. At the 90th percentile, ' +
    ' 90 of 100 training images are less unlike the others than the changed features ' +
    'are: near 100 the change may be to something that no image has.'],
];

function helpPage(main) {
  add(main, [
    heading('How to read this'),
    el('dl', { class: 'words' }, WORDS.map(([word, text]) =>
      [el('dt', {}, word), el('dd', {}, text)])),
    section('Keys', el('p', {}, el('kbd', {}, '/'), ' goes to the search, ', el('kbd', {}, '\u2190'),
      ' and ', el('kbd', {}, '\u2192'), ' to the page before and after.')),
    el('p', { class: 'muted' }, 'Made by xplique-dirpairs ' + report.version +
      '. The report loads nothing from the network.'),
  ]);
}
