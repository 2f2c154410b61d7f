"""The embedded default: a small model that knows an invented world, a task about that world, and how both were made."""
