"""Run nbval so that a printed decimal may differ by one unit in its last place.

Another processor adds numbers in another order. A figure that lies between two roundings is then
printed as 0.69 here and as 0.68 there, and neither is wrong. Words, counts and all else must agree.
"""

import re
import sys
from typing import Any

import pytest
from nbformat import from_dict
from nbval.plugin import IPyNbCell

ROUNDED = re.compile(r"[-+]?\b\d+\.\d+\b|[-+]?\b\d+(?= ?%)")  # a decimal, or a whole per cent

ERROR = re.compile(r"^\w+(?:Error|Exception): .*", re.MULTILINE)


def within_rounding(reference: str, found: str) -> str:
    """Return what was found, with the reference's decimals where they differ by rounding alone.

    Args:
        reference: text as it was committed.
        found: text as it was printed now.

    Returns:
        The reference if the two differ by at most one unit in the last place of some decimals or
        whole percentages, else `found`, unchanged.
    """
    if ROUNDED.split(reference) != ROUNDED.split(found):
        return found
    pairs = zip(ROUNDED.findall(reference), ROUNDED.findall(found), strict=True)
    return reference if all(_near(one, other) for one, other in pairs) else found


def _near(one: str, other: str) -> bool:
    places = [len(number.partition(".")[2]) for number in (one, other)]
    return places[0] == places[1] and round(abs(float(one) - float(other)) * 10 ** places[0]) <= 1


class Rounding:
    """A pytest plugin that lets nbval compare so."""

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_call(self, item: pytest.Item) -> Any:
        """Give a cell the comparison that knows of rounding; fail it where a figure says an error.

        A figure with controls prints what went wrong, and raises nothing.
        """
        if isinstance(item, IPyNbCell):
            compare = item.compare_outputs
            item.compare_outputs = lambda test, ref, skip_compare=None: compare(
                [_rounded(output, ref) for output in test], ref, skip_compare
            )
        result = yield
        if isinstance(item, IPyNbCell):
            streams = [o.text for o in item.test_outputs or () if o.output_type == "stream"]
            if told := ERROR.search("\n".join(streams)):
                pytest.fail(f"a figure with controls says {told[0]}", pytrace=False)
        return result


def _rounded(output: Any, reference: list[Any]) -> Any:
    """Return a stream's output with the text of the committed stream of its name, where near."""
    for other in reference:
        if output.output_type == other.output_type == "stream" and output.name == other.name:
            return from_dict({**output, "text": within_rounding(other.text, output.text)})
    return output


if __name__ == "__main__":
    sys.exit(pytest.main(sys.argv[1:], plugins=[Rounding()]))
