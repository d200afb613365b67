"""What a part of the campaign did, as figures."""

from collections.abc import Callable, Mapping


class Figures(dict[str, float | str]):
    """Names and figures, in the order in which they are to be read."""

    def __str__(self) -> str:
        return "\n".join(line(value, name) for name, value in self.items())

    def add(self, others: Mapping[str, float | str]) -> None:
        """Add *others* to those of the same names."""
        for name, value in others.items():
            own = self.get(name, 0)
            self[name] = own + value if not isinstance(own, str) and not isinstance(value, str) else value


# What has figures told, and gives them back.
Tell = Callable[[Figures], Figures]


def line(value: float | str, name: str) -> str:
    """One line of a summary."""
    shown = value if isinstance(value, str) else f"{value:,.1f}" if isinstance(value, float) else f"{value:,}"
    return f"{shown:>14}  {name}"
