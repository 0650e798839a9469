"""One file a model family, behind :class:`pjd.models.base.ImageModel`."""
