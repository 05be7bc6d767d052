"""What depends on the place in the image: concepts, or the channels of a layer."""
