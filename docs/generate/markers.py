"""Replace the generated part of a page."""


def replace_between(text: str, begin: str, end: str, content: str) -> str:
    """Return the page with other content between the markers.

    Raises:
        ValueError: when a marker is not there, since the rest of the page would be lost.
    """
    before, found, rest = text.partition(begin)
    _, also_found, after = rest.partition(end)
    if not (found and also_found):
        raise ValueError(f"the page has no part between {begin} and {end}")
    return f"{before}{begin}\n\n{content}\n\n{end}{after}"
