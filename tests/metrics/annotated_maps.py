"""Random detectors on randomly annotated images, for the tests of Network Dissection."""

from dataclasses import dataclass, replace

import numpy as np

CONCEPTS = {"object": ("house", "tree", "sun"), "colour": ("red", "blue"), "part": ("door",)}


@dataclass
class Annotations:
    """Annotated images for tests, in which maps take the place of images."""

    maps: np.ndarray
    masks: dict
    concepts: dict
    exhaustive: bool = False

    def batches(self, batch_size=32):
        for start in range(0, len(self.maps), batch_size):
            part = slice(start, start + batch_size)
            yield self.maps[part], {name: mask[part] for name, mask in self.masks.items()}

    def subset(self, which):
        masks = {name: mask[which] for name, mask in self.masks.items()}
        return Annotations(self.maps[which], masks, self.concepts, self.exhaustive)


def annotations(rng, images=6, cells=(3, 4), shape=(10, 13), detectors=5, dtype=np.uint8):
    """Return random maps with masks of random blocks; only every third image has labelled parts."""
    masks = {}
    for category, names in CONCEPTS.items():
        blocks = rng.integers(0, len(names) + 1, (images, 4, 4))
        mask = blocks.repeat(4, axis=1).repeat(4, axis=2)[:, : shape[0], : shape[1]]
        masks[category] = mask.astype(dtype)
    masks["part"][np.arange(images) % 3 > 0] = 0
    return Annotations(rng.normal(size=(images, *cells, detectors)), masks, CONCEPTS)


def moved(data, down, right):
    """Return maps as large as the masks, moved down and to the right by numbers of pixels."""
    height, width = data.maps.shape[1:3]
    rows = np.clip(np.arange(height) - down, 0, height - 1)
    columns = np.clip(np.arange(width) - right, 0, width - 1)
    return replace(data, maps=data.maps[:, rows][:, :, columns])


def slow_upsampled(maps, shape):
    """Upsample a map bilinearly with half-pixel centres, pixel by pixel: (h, w) → (H, W)."""
    (h, w), (height, width) = maps.shape, shape
    result = np.zeros(shape)
    for r in range(height):
        for c in range(width):
            y = min(max((r + 0.5) * h / height - 0.5, 0), h - 1)
            x = min(max((c + 0.5) * w / width - 0.5, 0), w - 1)
            top, left = min(int(y), h - 2), min(int(x), w - 2)
            up = maps[top, left] * (1 - (x - left)) + maps[top, left + 1] * (x - left)
            down = maps[top + 1, left] * (1 - (x - left)) + maps[top + 1, left + 1] * (x - left)
            result[r, c] = up * (1 - (y - top)) + down * (y - top)
    return result


def slow_pixels(data):
    """Return upsampled maps (P, I) and labels (P,) of the images that count, by category."""
    pixels = {}
    for category, masks in data.masks.items():
        values, labels = [], []
        for maps, mask in zip(data.maps, masks, strict=True):
            if not (mask.any() or data.exhaustive):
                continue
            up = [slow_upsampled(maps[..., i], mask.shape) for i in range(maps.shape[-1])]
            values.append(np.stack(up, axis=-1).reshape(-1, maps.shape[-1]))
            labels.append(mask.reshape(-1))
        pixels[category] = np.concatenate(values), np.concatenate(labels)
    return pixels
