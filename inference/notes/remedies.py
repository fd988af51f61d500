"""Remedies: which setting to turn, and to what value, where a fit came to little.

The three settings of the engine that mend most (a floor of steps, a long fade-in of the prior, a KL weight of a tenth:
measured over all ready priors) come first, then the prior's own knob. Names are those of `fit` and of its command line.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace

from bayesprune.inference.data.raw_inputs import standardising_helps
from bayesprune.inference.defaults.kl_weight import FADE_IN, LEAST_WEIGHT
from bayesprune.inference.defaults.knob_grid import stronger_or_weaker
from bayesprune.inference.defaults.length import LEAST_STEPS
from bayesprune.inference.fitted import Fitted
from bayesprune.inference.rules.gate_noise import NOISY
from bayesprune.models.checks.plain_numbers import plain_value

__all__ = ["Remedies"]

FEW = 1000
"""Steps below which time alone may decide on inclusion."""
FAST, RATE = 0.01, 1e-3
"""Rates of Adam above the first are too fast for most networks; the default."""


@dataclass(frozen=True)
class Remedies:
    """What to do about one fit.

    Args:
        fit: The fit.
        tensors: Those that were looked at: the knob is one of their priors; default: of any.
    """

    fit: Fitted
    tensors: tuple[str, ...] = ()

    def about(self, tensors: Iterable[str]) -> Remedies:
        """What to do about these tensors, whose prior may be another one than that of the others."""
        return replace(self, tensors=tuple(tensors))

    def less_prior(self) -> str:
        """What lets the data say more."""
        knob, engine, lead = self._knob(weaker=True), self._engine(), self._standardise()
        if self._is_noisy():
            return self.gentler_gates()  # a lower price makes longer steps of theta, and so more noise
        if self.fit.model.states_price and knob is not None:
            return _sentence([*lead, knob], [" and ".join(engine)] if engine else [])
        weight = self._weight()
        if self.fit.settings.get("masks"):  # what holds it back is how few weights there are
            return _sentence([self._more_steps()], ["a larger density"])
        if weight == 0.0:  # the prior has no say as it is
            return _sentence(engine or [self._more_steps()], [])
        engine = [f"kl_weight={LEAST_WEIGHT if weight > LEAST_WEIGHT else 0.1 * weight:g}", *engine]
        knobs = [] if knob is None else [knob]
        if lead:
            return _sentence(lead, [" and ".join(engine), *knobs], "tune kl_weight")
        return _sentence(engine, knobs, "tune kl_weight")

    def more_prior(self) -> str:
        """What keeps the data's noise out."""
        weight, knob = self._weight(), self._knob(weaker=False)
        engine = [f"kl_weight={1.0 if weight < 1.0 else 10.0 * weight:g}"]
        tunes = ["tune kl_weight"] if weight < 1.0 else []  # it looks at no larger ones than 1
        return _sentence(engine, [] if knob is None or weight == 0.0 else [knob], *tunes)

    def sharper_prior(self) -> str:
        """What makes the prior decide where the data do not."""
        knob = self._knob(weaker=False)
        if 0 < (self.fit.settings.get("steps") or 0) < FEW:
            return self.longer()
        if self._weight() == 0.0:  # the prior decides nothing, however sharp it is
            return _sentence([f"kl_weight={LEAST_WEIGHT:g}"], [])
        return _sentence([f"kl_weight={0.1 * self._weight():g}"] if knob is None else [knob], [])

    def longer(self) -> str:
        """More steps."""
        return _sentence([*self._standardise(), self._more_steps()], [])

    def slower(self) -> str:
        """A smaller learning rate."""
        rate = self.fit.settings.get("learning_rate")
        rate = rate if isinstance(rate, (int, float)) else RATE
        rates = [f"learning_rate={RATE if rate > FAST else 0.1 * rate:g}", "schedule='cosine'"]
        found = [*self._standardise(), *rates]
        return _sentence(found[:1], found[1:])

    def gentler_gates(self) -> str:
        """What lets units leave later."""
        report = (self.fit.settings.get("gating") or [{}])[0]
        rate = report.get("step")
        smaller = [f"Gating(step={0.25 * rate:.3g}) in place of {rate:.3g}"] if isinstance(rate, (int, float)) else []
        return _sentence([self._more_steps()], smaller)

    # -- inside ----------------------------------------------------------------------------------------------

    def _standardise(self) -> list[str]:
        """What comes first where inputs are in units of their own, far from one, and stand in nothing's way."""
        examples = None if self.fit.examples is None else self.fit.examples[0]
        done = self.fit.settings.get("standardised") or {}
        return ["standardise=True"] if standardising_helps(self.fit.model.network, examples, done) else []

    def _is_noisy(self) -> bool:
        """Whether it was rather the noise of theta's gradient than the price that closed gates."""
        noise = (self.fit.settings.get("gating") or [{}])[0].get("noise")
        return isinstance(noise, (int, float)) and noise > NOISY

    def _weight(self) -> float:
        weight = self.fit.settings.get("kl_weight")
        return float(weight) if isinstance(weight, (int, float)) and weight >= 0 else 1.0

    def _engine(self) -> list[str]:
        """Fade-in and length, where they are short, and the learning rate where it is large."""
        settings = self.fit.settings
        warmup, rate = settings.get("kl_warmup"), settings.get("learning_rate")
        short = isinstance(warmup, (int, float)) and warmup < FADE_IN
        fast = settings.get("optimizer") == "adam" and isinstance(rate, (int, float)) and rate > FAST
        faded = [f"kl_warmup={FADE_IN:g}"] if short else []
        return [*faded, *([f"learning_rate={RATE:g}"] if fast else []), *self._longer()]

    def _longer(self) -> list[str]:
        steps = self.fit.settings.get("steps") or 0
        return [self._more_steps()] if 0 < steps < LEAST_STEPS else []

    def _more_steps(self) -> str:
        if self.fit.settings.get("steps", 0) is None:  # of a loop of one's own, whose length nobody has told
            return "more steps"
        return f"steps={max(LEAST_STEPS, 2 * int(self.fit.settings.get('steps') or 0))}"

    def _knob(self, weaker: bool) -> str | None:
        """The prior's own knob with a value, where it has one as a number."""
        ways = [way for way in self.fit.model.ways if way.states_price]
        settings = [one for way in ways for one in (way.settings, way.defaults)]
        if not settings:
            priors = self.fit.model.priors
            looked_at = [priors[name] for name in self.tensors if name in priors] or list(priors.values())
            configs = [getattr(prior.hierarchy, "config", None) or {} for prior in looked_at]
            settings = [config.get("arguments") or {} for config in configs]
        for one in settings:
            found = stronger_or_weaker({name: plain_value(value) for name, value in one.items()}, weaker)
            if found is not None:
                return f"{found[0]}={found[1]:g}"
        return None


def _sentence(together: list[str], instead: list[str], *more: str) -> str:
    """`give A, B and C, or D, or --tune`."""
    joined = together[0] if len(together) == 1 else f"{', '.join(together[:-1])} and {together[-1]}"
    return ", or ".join([f"give {joined}", *instead, *(f"let --{one} choose" for one in more)])
