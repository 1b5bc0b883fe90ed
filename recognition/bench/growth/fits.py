"""Simple laws through measured points: a + b x, or a power of x."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Fit:
    """A law and how far it is off.

    law: "linear": y = a + b x; "power": y = a x ** b. a_error, b_error: standard errors, nan where as many points as
    numbers were fitted. worst: largest relative distance of a point.
    """

    law: str
    a: float
    b: float
    a_error: float
    b_error: float
    worst: float
    points: int

    def at(self, x: float) -> float:
        """What the law says at x."""
        return self.a + self.b * x if self.law == "linear" else self.a * x**self.b

    def words(self) -> str:
        """The law, its errors, and how far it is off."""
        if self.points <= 2:
            return f"{self._formula()}, through {self.points} point(s), which no error can be told of"
        errors = f"standard errors {self.a_error:.2g} and {self.b_error:.2g}"
        return f"{self._formula()}; {errors}; off by {100 * self.worst:.1f} % at most"

    def _formula(self) -> str:
        if self.law == "power":
            return f"{self.a:.4g} x^{self.b:.3f}"
        return f"{self.a:.4g} {'-' if self.b < 0 else '+'} {abs(self.b):.4g} x"


def fit(x: Sequence[float], y: Sequence[float]) -> Fit:
    """The law of the two that is less off, by least squares of relative distances. x and y above 0.

    A linear law that would be below 0 at the first point is none; two points have a power.
    """
    x, y = np.asarray(x, float), np.asarray(y, float)
    if len(x) == 1:
        return Fit("linear", float(y[0]), 0.0, np.nan, np.nan, 0.0, 1)
    linear, power = _linear(x, y), _power(x, y)
    return power if len(x) == 2 or power.worst < linear.worst or linear.at(x.min()) <= 0 else linear


def _linear(x: np.ndarray, y: np.ndarray) -> Fit:
    (a, b), errors = _least_squares(np.stack([1 / y, x / y], 1), np.ones(len(x)))
    return Fit("linear", a, b, *errors, float(np.abs((a + b * x) / y - 1).max()), len(x))


def _power(x: np.ndarray, y: np.ndarray) -> Fit:
    (a, b), (a_error, b_error) = _least_squares(np.stack([np.ones(len(x)), np.log(x)], 1), np.log(y))
    a = float(np.exp(a))
    return Fit("power", a, b, a * a_error, b_error, float(np.abs(a * x**b / y - 1).max()), len(x))


def _least_squares(matrix: np.ndarray, wanted: np.ndarray) -> tuple[tuple[float, float], tuple[float, float]]:
    """Two coefficients, and their standard errors."""
    found = np.linalg.lstsq(matrix, wanted, rcond=None)[0]
    spare = len(wanted) - 2
    if spare < 1:
        return (float(found[0]), float(found[1])), (np.nan, np.nan)
    variance = float(((matrix @ found - wanted) ** 2).sum()) / spare
    errors = np.sqrt(np.diag(np.linalg.pinv(matrix.T @ matrix)) * variance)
    return (float(found[0]), float(found[1])), (float(errors[0]), float(errors[1]))
