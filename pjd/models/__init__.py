"""One file a model family, behind :class:`pjd.decoder.model.ImageModel`."""
