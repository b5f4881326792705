"""Pairs of a core enum and a protobuf enum."""

from collections.abc import Mapping
from enum import StrEnum
from typing import Generic, TypeVar

from tandem.core.errors import InvalidArgument

Core = TypeVar("Core", bound=StrEnum)
Wire = TypeVar("Wire", bound=int)


class EnumCodec(Generic[Core, Wire]):
    """Maps members of one core enum to protobuf numbers and back; every member must be given."""

    def __init__(self, numbers: Mapping[Core, Wire]) -> None:
        self._numbers = dict(numbers)
        self._members: dict[int, Core] = {number: member for member, number in numbers.items()}

    def encode(self, member: Core) -> Wire:
        """Return the protobuf number of ``member``."""
        return self._numbers[member]

    def decode(self, number: int, *, field: str, default: Core | None = None) -> Core:
        """Return the member with this number; ``default`` stands for an unset (zero) field.

        Raises InvalidArgument for a number without a member.
        """
        member = self._members.get(number, default if number == 0 else None)
        if member is None:
            known = ", ".join(str(number) for number in sorted(self._members))
            raise InvalidArgument(field, f"is {number}", remedy=f"use one of {known}")
        return member
