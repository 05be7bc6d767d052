// The page that explains how to read the report.

const WORDS = [
  ['Concept', 'A direction in the features of one layer, found from images without annotations. ' +
    'Its name is a number, or a label from annotations or people. Crops show what it is.'],
  ['Detection', 'Whether a concept is present at a position of the feature map, from 0 to 1: ' +
    'above 0.5 if the output of its filter is above the bias.'],
  ['Map', 'Where a concept is in an image, and how strong it is. The rest of the image is dark.'],
  ['Contribution', 'The part of a class\u2019s logit that is due to the concept in the images. ' +
    'The contributions and the logit without any concept sum to the logit.'],
  ['Effect', 'What the direction of a concept does to a class: its unit effect times the ' +
    'coefficient of the concept, mean over the images of the class, in logits. The logit of the ' +
    'class is taken less the mean over all classes. \u00b1: 95\u00a0% interval over the images.'],
  ['Unit effect', 'The change of this logit when features move by one unit of length along the ' +
    'concept\u2019s signal vector. If the network is linear after this layer, it is the same for ' +
    'all images; otherwise it is a mean over them. Where a coefficient is below 0, the effect ' +
    'has the other sign.'],
  ['Significant', () => 'The effect is larger than chance would give. \u25cf: even though many ' +
    'effects were tested (corrected for their number by Benjamini\u2013Hochberg); \u25cb: only if ' +
    'it had been the one test. An effect can be small and significant, or large and not: read ' +
    'its size first. The test: ' + report.influence.test + '.'],
  ['Points to', 'A signal vector points to a class if its cosine with the weights of the class, ' +
    'less their mean over all classes, is large: then more of the concept raises this class.'],
  ['Images by the concepts of their prediction', 'A picture in which images are neighbours if the ' +
    'same concepts contributed to their predictions (t-SNE). Distances in it are not distances.'],
  ['Signal vector', 'The change of the features where the concept is present (encoding).'],
  ['Filter', 'The direction that detects whether the concept is present (decoding).'],
  ['Without concepts', 'The logit with every concept off. It consists of the residual, which the ' +
    'concepts do not explain, and the class\u2019s bias.'],
  ['Coefficient', 'The amount of a concept at a position: the factor with which its signal vector ' +
    'is added to the features there.'],
  ['What would change the prediction', 'The smallest change of the coefficients of a few ' +
    'concepts, the same at all positions of the image, that changes the predicted class. ' +
    'The percentile compares the changed features with the training images: at the 90th ' +
    'percentile, 90 of 100 training images are closer to the other training images than the ' +
    'changed features are. Near 100, no real image may have such features.'],
];

function helpPage(main) {
  add(main, [
    heading('How to read this report'),
    el('dl', { class: 'words' }, WORDS.map(([word, text]) =>
      [el('dt', {}, word), el('dd', {}, typeof text === 'function' ? text() : text)])),
    section('Keys', el('p', {}, el('kbd', {}, '/'), ' goes to the search, ', el('kbd', {}, '\u2190'),
      ' and ', el('kbd', {}, '\u2192'), ' go to the previous and the next page. ', el('kbd', {}, 'Enter'), ' or a click on crops ' +
      'shows all crops of a concept; ', el('kbd', {}, 'Esc'), ' closes them.')),
    el('p', { class: 'muted' }, 'Written by xplique-dirpairs ' + report.version +
      '. The report loads nothing from the network.'),
  ]);
}
