"""The report of a recovery audit: a table and a picture."""
