"""Two parties on the embedded model."""
