"""How a key is sent: as the header `Authorization`."""

import re


def bearer(key: str) -> dict[str, str]:
    """Return the header that shows a key; none if it is empty.

    Args:
        key: A key or a token; white space around it, such as a line break at the end of its file, is none of it.

    Raises:
        ValueError: If it has a character that no key has; the message does not repeat it.
    """
    sent = key.strip()
    if not re.fullmatch("[!-~]*", sent):
        raise ValueError("the key has a space, a line break or another character that no key has; send one key, alone")
    return {"Authorization": f"Bearer {sent}"} if sent else {}
