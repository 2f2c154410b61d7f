"""The embedded demo: a small model that knows an invented world, a task about that world, and the code for both."""
