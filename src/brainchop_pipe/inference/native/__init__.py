"""Convolutions, compiled; `_convolution` is missing where no compiler was at hand."""
