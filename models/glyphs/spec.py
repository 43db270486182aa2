"""The classes, the shape of an image, and how images are normalised."""

import string

LABELS: tuple[str, ...] = tuple(string.ascii_uppercase + string.digits)
INPUT_SHAPE = (3, 32, 32)

# Of each channel, with pixels in [0, 1], over the training images.
MEAN = (0.499, 0.500, 0.501)
STD = (0.246, 0.299, 0.232)
