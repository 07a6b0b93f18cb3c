"""Which targets a job may have that somebody else submitted: those of the catalogue, and what the operator allows."""

from collections.abc import Collection

from autotune.search_space.catalogue.knobs import find, flat_name
from autotune.search_space.limits import refusal
from autotune.search_space.parameters import place
from autotune.search_space.space import SearchSpace


def not_allowed(space: SearchSpace, allowed: Collection[str] = ()) -> tuple[str, ...]:
    """One sentence for each parameter of a space that a shared service must refuse; empty: none.

    Allowed is what the catalogue has, and the flat names (`max_num_seqs`, `additional_config.some_key`) that the
    operator's settings add. What `limits` refuses stays refused whoever allows it.
    """
    problems = []
    for name, parameter in space.parameters.items():
        kind, target = place(name, parameter)
        why = refusal(kind, target)
        if not why and find(kind, target) is None and flat_name(kind, target) not in allowed:
            why = (
                f"{kind} '{target}' is not in the knob catalogue; the operator may allow it with allowed_knobs: "
                f"[{flat_name(kind, target)}] in the settings"
            )
        if why:
            problems.append(f"search space {space.name!r}: parameters.{name}: {why}")
    return tuple(problems)
