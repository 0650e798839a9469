"""One file per model family, behind :class:`pjd.decoder.model.ImageModel`."""
