"""Data: catalogues, preparation, augmentation, mixing and the input pipeline."""
