"""The registry of guide families: what is known of each is said once, beside its class."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

from torch import nn

__all__ = [
    "POINT",
    "RegisteredFamily",
    "choosable_families",
    "family",
    "has_density",
    "is_point",
    "mean_field_family",
    "registered_family",
]

POINT = "delta"
"""Name of the family of points."""

FamilyClass = TypeVar("FamilyClass", bound=type[nn.Module])


@dataclass(frozen=True)
class RegisteredFamily:
    """What is known of a guide family.

    Attributes:
        name: What it is chosen by.
        build: The class; called with the sites and their starting values.
        supports: The supports on which it is defined; none for a family of several latents at once, which no single
            latent can choose.
        mean_field: Whether it is what ``guide="meanfield"`` takes on its supports.
        has_density: Whether it has a log density; without one the objective is no bound on the evidence.
    """

    name: str
    build: Callable[..., nn.Module]
    supports: tuple[str, ...]
    mean_field: bool
    has_density: bool


_FAMILIES: dict[str, RegisteredFamily] = {}


def family(
    name: str, *, supports: tuple[str, ...], mean_field: bool = False, has_density: bool = True
) -> Callable[[FamilyClass], FamilyClass]:
    """Decorator: registers the class of a guide family.

    Args:
        name: What it is chosen by, as in ``Latent(guide=name)``.
        supports: Those on which it is defined, named as in `Site.support`; none for a family of several
            latents at once.
        mean_field: Whether ``guide="meanfield"`` takes it on its supports; default False.
        has_density: Whether it has a log density; default True.

    Returns:
        The decorator, which gives the class back.

    Raises:
        ValueError: If the name is taken, or a support has a mean-field family already.
    """

    def register(kind: FamilyClass) -> FamilyClass:
        if name in _FAMILIES:
            raise ValueError(f"there is a guide family {name!r} already, expected a new name: choose another one")
        for support in supports if mean_field else ():
            if (earlier := mean_field_family(support)) is not None:
                raise ValueError(
                    f"{earlier!r} is the mean-field family of {support} sites already, expected one a support: "
                    f"register {name!r} with mean_field=False"
                )
        _FAMILIES[name] = RegisteredFamily(name, kind, supports, mean_field, has_density)
        return kind

    return register


def registered_family(name: str) -> RegisteredFamily:
    """What is known of the family of that name.

    Raises:
        ValueError: If there is none.
    """
    if name not in _FAMILIES:
        raise ValueError(f"guide family {name!r} is unknown: expected one of {', '.join(_FAMILIES)}")
    return _FAMILIES[name]


def choosable_families() -> tuple[str, ...]:
    """Names of the families that a latent can choose, in the order in which they were registered."""
    return tuple(name for name, one in _FAMILIES.items() if one.supports)


def has_density(name: str) -> bool:
    """Whether the family of that name has a log density.

    Raises:
        ValueError: If there is no such family.
    """
    return registered_family(name).has_density


def is_point(name: str) -> bool:
    """Whether the family of that name is the one of points; hard concrete gates, without density too, are drawn."""
    return name == POINT


def mean_field_family(support: str) -> str | None:
    """Name of the family that ``guide="meanfield"`` takes on a support; None where there is none."""
    return next((name for name, one in _FAMILIES.items() if one.mean_field and support in one.supports), None)
