"""What the model sees: the views of a batch."""
