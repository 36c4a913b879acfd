"""Which images to ask about: a whitened space, one image per k-means centre, and what the images asked about cover."""
