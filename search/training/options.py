"""Settings of a candidate that are options of its methods, such as `scale.lora`: the design as trained has them."""

from __future__ import annotations

from petlas.petl import Design, DesignError, get_method
from petlas.search.config import option_of
from petlas.spaces import Candidate, Space


def design_of_training(candidate: Candidate) -> Design:
    """A candidate's design with those of its settings that are options of its methods.

    A setting of a method that the design does not have changes nothing.

    Args:
        candidate: The candidate.

    Raises:
        DesignError: When a method has no such option.
    """
    options = [(*found, value) for name, value in candidate.settings if (found := option_of(name)) is not None]
    if not options:
        return candidate.design
    placements = list(candidate.design.placements)
    for option, method, value in options:
        for index, placement in enumerate(placements):
            if placement.method == method:
                placements[index] = get_method(method).at_setting(placement, option, value)
    return Design.of(placements, candidate.design.backbone)


def check_options(space: Space) -> list[Design]:
    """The largest design of a space with the least and with the largest values of its methods' options.

    Args:
        space: What may be chosen; it has the methods.

    Raises:
        DesignError: When a method has no such option.
    """
    found = []
    for end in (0, 1):
        values = [(s.name, float(s.value(s.ends[end]))) for s in space.settings if option_of(s.name) is not None]
        for name, _ in values:
            option, method = option_of(name) or ("", "")
            try:
                get_method(method).usual_setting(option)
            except DesignError as error:
                raise DesignError(f"space.settings.{name}: {error}") from None
        if values:
            found.append(design_of_training(Candidate(space.largest, tuple(values))))
    return found
