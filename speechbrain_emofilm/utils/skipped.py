"""One policy for items that cannot be used: count, list, fail above a share."""

from collections.abc import Mapping
from pathlib import Path

from speechbrain_emofilm.utils.files import write_json

from speechbrain.utils.logger import get_logger

logger = get_logger(__name__)


def report_skipped(
    skipped: Mapping[str, str],
    n_items: int,
    max_bad_share: float,
    listing: str | Path,
    what: str = "utterances",
) -> None:
    """List items that cannot be used, and fail if they are too many.

    Arguments
    ---------
    skipped : dict
        Item id to the reason why it cannot be used.
    n_items : int
        Number of items in all, usable or not.
    max_bad_share : float
        Largest share of items that may be skipped, 0 to 1.
    listing : str or Path
        JSON file that the skipped items are written to, also where there are
        none.
    what : str
        What is counted, for the message.

    Raises
    ------
    ValueError
        If ``max_bad_share`` is not between 0 and 1, or if more items than it
        allows are skipped. The list is written all the same.

    Example
    -------
    >>> from speechbrain_emofilm.utils.files import read_json
    >>> listing = getfixture("tmp_path") / "skipped.json"
    >>> report_skipped({"a1": "its wav is silent."}, 200, 0.01, listing)
    >>> read_json(listing)
    {'a1': 'its wav is silent.'}
    """
    check_share(max_bad_share)
    write_json(listing, dict(skipped))
    if not skipped:
        return
    name, reason = next(iter(skipped.items()))
    summary = (
        f"{len(skipped)} of {n_items} {what} cannot be used. The first, "
        f"{name}: {reason} All are listed in {listing}."
    )
    if len(skipped) > max_bad_share * n_items:
        raise ValueError(
            f"{summary} This is more than max_bad_share = {max_bad_share:g} "
            "allows: repair them, or raise max_bad_share."
        )
    logger.warning("%s They are skipped.", summary)


def check_share(max_bad_share: float) -> None:
    """Raise ValueError unless ``max_bad_share`` is between 0 and 1."""
    if not 0 <= max_bad_share <= 1:
        raise ValueError(
            f"max_bad_share: {max_bad_share} is not a share; give a number "
            "from 0 to 1."
        )
