"""What may be wrong with prepared images."""
