from __future__ import annotations

from codegen_chat.lm.lookup import Lookup


def test_what_followed_last_is_proposed() -> None:
    lookup = Lookup()
    assert lookup.propose([1], 4) == []
    assert lookup.propose([1, 2, 3, 1, 2, 4, 5, 6, 7, 8, 1, 2], 4) == [4, 5, 6, 7]
    assert lookup.propose([1, 2, 3, 1, 2, 4, 5, 6, 7, 8, 1, 2], 2) == [4, 5]
    assert lookup.propose([1, 2, 3, 9, 9, 1, 2], 4) == []  # cut and written anew: what was read is no longer there
    lookup.begin()
    assert lookup.propose([1, 2, 3, 9, 9, 1, 2], 4) == [3, 9, 9, 1]
