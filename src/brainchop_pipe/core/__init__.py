"""Arrays in, arrays out: geometry, resampling, intensities, components; no files, no models."""
