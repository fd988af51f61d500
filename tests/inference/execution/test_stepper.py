"""Which execution a fit takes, and that it does not matter: whole fits at one seed agree, and the report says why."""

from __future__ import annotations

import re
import shutil

import numpy as np
import pyro.distributions as dist
import pytest
import torch
from torch import nn

from bayesprune.inference.execution import stepper as stepper_module
from bayesprune.inference.execution.execution_report import ExecutionReport
from bayesprune.inference.execution.stepper import Stepper
from bayesprune.inference.guides.finite_parameters import NonFiniteLossError
from bayesprune.inference.objective.latent_gate_estimators import ScoreFunction
from bayesprune.inference.training.fit import fit
from bayesprune.inference.training.optimizers import make_optimizer
from bayesprune.inference.watching.callbacks import Callback
from bayesprune.models.bayesian_network import BayesianNetwork
from bayesprune.models.language.hierarchy import Hierarchy
from bayesprune.models.language.latent import Latent
from bayesprune.models.priors.gaussian import Gaussian
from bayesprune.models.priors.halo import HALO
from bayesprune.models.priors.spike_and_slab import SpikeAndSlab
from tests.oracles.plain_path import apart, batch_for, mlp, objective_of, state_of

SIZE = 30
TIGHT = 1e-9
torch.manual_seed(11)
X = torch.randn(SIZE, 4)
Y = (X[:, 0] + 0.5 * X[:, 1] > 0).long()


@pytest.fixture
def no_compilation(monkeypatch):
    """What would be compiled runs as it is."""
    monkeypatch.setattr(torch, "compile", lambda function, **options: function)


def branching(per="layer"):
    """A prior that looks at a value."""
    return Hierarchy(
        tau=Latent(lambda: dist.Gamma(2.0, 2.0), per=per),
        weight=lambda tau: dist.Normal(0.0, tau if tau > 1 else tau.square()),
    )


def model(priors=None, network=None):
    return BayesianNetwork(network or mlp(), priors or {"a*.weight": Gaussian()}, data_size=SIZE)


def fitted(bnn=None, execution="plain", **more):
    more = {"steps": 9, "batch_size": 8, "device": "cpu", "precision": "float64", "learning_rate": 0.01, **more}
    return fit(bnn or model(), (X, Y), more.pop("guide", "meanfield"), execution=execution, **more)


def numbers(result, restart=0):
    one = result.restarts[restart]
    return {**dict(one.guide.state_dict()), **{f"model {name}": v for name, v in one.model.state_dict().items()}}


def far(one, other, restart=0):
    return apart(numbers(one, restart), numbers(other, restart))


# -- whole fits -----------------------------------------------------------------------------------------------

FITS = {
    "adam": {},
    "sgd": {"optimizer": "sgd"},
    "weight decay": {"optimizer": lambda groups: torch.optim.AdamW(groups, lr=0.01)},
    "clipped": {"clip": 0.05},
    "points": {"guide": "map"},
    "statistics": {"bnn": lambda: model(network=mlp(norm=True))},
    "dropout": {"bnn": lambda: model(network=mlp(dropout=0.2))},
    "gates": {"bnn": lambda: model({"a*.weight": SpikeAndSlab()}), "guide": None},
    "drawn gates": {
        "bnn": lambda: model({"a2.weight": SpikeAndSlab()}), "guide": None, "gate_estimator": ScoreFunction(2),
    },
    "particles": {"particles": 2},
    "a tempered objective": {"kl_weight": 0.3, "kl_warmup": 0.5, "schedule": "cosine"},
    "one tensor outside the graph": {"bnn": lambda: model({"a1.weight": branching(), "a2.weight": Gaussian()})},
}  # fmt: skip


def fit_of(kind, execution, **more):
    given = {**FITS[kind], **more}
    return fitted(given.pop("bnn", model)(), execution, **given)


@pytest.mark.parametrize("kind", FITS)
def test_a_fused_fit_is_the_plain_one(kind, no_compilation):
    plain, fused = fit_of(kind, "plain"), fit_of(kind, "fused", compiled=True)
    assert far(fused, plain) < TIGHT
    for name in ("loss", "kl", "expected_log_likelihood"):
        np.testing.assert_allclose(fused.trace[name].values, plain.trace[name].values, rtol=TIGHT)
    report = fused.settings["execution"]
    assert (report["name"], report["compiled"]) == ("fused", True) and report["reason"].startswith("it was asked for")
    assert (report["fused_steps"], report["plain_steps"]) == (7, 2)  # the fourth and the eighth batch are odd
    assert report["plain_tensors"] == (["a1.weight"] if "outside" in kind else [])
    assert plain.settings["execution"]["name"] == "plain" and plain.settings["execution"]["plain_steps"] == 9
    if kind != "points":  # the control: another seed
        assert far(fused, fit_of(kind, "plain", seed=1)) > 1e-3


def test_single_precision_and_autocast_take_the_fused_execution_too():
    for precision, tolerance in (("float32", 1e-3), ("bfloat16", 0.1)):
        plain, fused = (
            fitted(execution=execution, precision=precision, compiled=False) for execution in ("plain", "fused")
        )
        assert fused.settings["execution"]["name"] == "fused" and not fused.settings["execution"]["compiled"]
        assert far(fused, plain) < tolerance


def test_restarts_are_traced_anew_and_agree(no_compilation):
    plain, fused = (fitted(execution=execution, compiled=True, restarts=2) for execution in ("plain", "fused"))
    for restart in range(2):
        assert far(fused, plain, restart) < TIGHT
    assert apart(numbers(fused, 0), numbers(fused, 1)) > 1e-3


def test_a_callback_that_changes_a_parameter_is_followed(no_compilation):
    class Moves(Callback):
        def on_step(self, state):
            if state.step == 3:
                with torch.no_grad():
                    state.objective.guide.families[0].location += 0.5

    plain, fused = (fitted(execution=execution, compiled=True, callbacks=[Moves()]) for execution in ("plain", "fused"))
    assert far(fused, plain) < TIGHT
    assert far(fused, fitted()) > 1e-2


@pytest.mark.parametrize("execution", ["plain", "fused"])
def test_a_loss_that_is_not_finite_names_the_site_in_either_execution(execution, no_compilation):
    class Breaks(Callback):
        def on_step(self, state):
            if state.step == 1:
                with torch.no_grad():
                    family = state.objective.guide.families[0]
                    family.location[-1] = torch.nan  # the last number is of a2.weight.lam

    scaled = Hierarchy(lam=Latent(lambda: dist.Gamma(2.0, 2.0)), weight=lambda lam: dist.Laplace(0.0, lam))
    with pytest.raises(NonFiniteLossError, match=r"at step 2 .*in the term of a2.weight.lam"):
        fitted(model({"a*.weight": scaled}), execution, compiled=True, callbacks=[Breaks()], batch_size=10)


@pytest.mark.slow
@pytest.mark.parametrize("kind", FITS)
def test_a_compiled_fit_is_the_plain_fit(kind):
    assert far(fit_of(kind, "fused", compiled=True), fit_of(kind, "plain")) < TIGHT


# -- a declaration that changes during the fit ----------------------------------------------------------------


class Changes(Callback):
    """Changes a number that the declaration reads, after a step."""

    def __init__(self, box, after):
        self.box, self.after = box, after

    def on_step(self, state):
        if state.step == self.after:
            self.box["sd"] = 3.0


@pytest.mark.parametrize("optimizer", ["adam", "sgd", lambda groups: torch.optim.AdamW(groups, lr=0.01)])
def test_a_declaration_that_reads_what_changes_turns_the_execution_plain_and_the_step_is_taken_there(
    monkeypatch, optimizer, no_compilation
):
    monkeypatch.setattr(stepper_module, "_CHECK_EVERY", 4)
    box = {"sd": 1.0}
    prior = Hierarchy(s=Latent(lambda: dist.Gamma(3.0, 3.0)), weight=lambda s: dist.Normal(0.0, s * box["sd"]))

    def run(execution):
        box["sd"] = 1.0
        given = {"optimizer": optimizer, "batch_size": SIZE, "kl_warmup": 0.0, "callbacks": [Changes(box, 4)]}
        return fitted(bnn, execution, compiled=True, **given)

    bnn = model({"a1.weight": prior}, mlp(norm=True))
    plain = run("plain")
    with pytest.warns(UserWarning, match="reads something that changes during the fit"):
        turned = run("fused")
    report = turned.settings["execution"]
    assert report["name"] == "plain" and (report["fused_steps"], report["plain_steps"]) == (4, 5)
    assert "at step 5 of the fused execution" in report["reason"]
    assert far(turned, plain) < TIGHT
    # The control: unchecked, the old number is used on.
    monkeypatch.setattr(stepper_module, "_CHECK_EVERY", 100)
    unchecked = run("fused")
    assert unchecked.settings["execution"]["fused_steps"] == 9 and far(unchecked, plain) > 1e-4


# -- compilers ------------------------------------------------------------------------------------------------


def long(monkeypatch, seconds=1e3):
    """Makes every evaluation seem that long, so that compilation pays."""
    asked = []
    monkeypatch.setattr(
        Stepper, "_time_plain", lambda self, x, y, kl_weight, steps, once: asked.append(once) or seconds
    )
    return asked


def test_without_a_compiler_the_report_says_so(monkeypatch):
    long(monkeypatch)
    monkeypatch.setenv("CXX", "no-such-compiler")
    assert shutil.which("no-such-compiler") is None
    report = fitted(execution="auto").settings["execution"]
    assert report["name"] == "plain" and "there is no C++ compiler (no-such-compiler)" in report["reason"]
    report = fitted(execution="fused").settings["execution"]
    assert (report["name"], report["compiled"]) == ("fused", False)
    assert "not compiled because there is no C++ compiler (no-such-compiler)" in report["reason"]


def test_where_compilation_fails_the_fit_goes_on_plainly_unless_the_fused_execution_was_asked_for(monkeypatch):
    def failing(function, **options):
        def run(*arguments):
            raise RuntimeError("the compiler fell over\nin many lines")

        return run

    plain = fitted()
    long(monkeypatch)
    monkeypatch.setattr(shutil, "which", lambda name: name)
    monkeypatch.setattr(torch, "compile", failing)
    with pytest.warns(UserWarning, match=r"cannot be compiled here \(the compiler fell over\)"):
        found = fitted(execution="auto")
    assert found.settings["execution"]["name"] == "plain" and found.settings["execution"]["plain_steps"] == 9
    assert far(found, plain) < TIGHT
    with pytest.raises(ValueError, match="execution='fused' cannot be compiled here .*use compiled=False"):
        fitted(execution="fused", compiled=True)


def test_a_step_that_was_compiled_wrongly_is_an_error(monkeypatch):
    def wrong(function, **options):
        def run(*arguments):
            parts, outputs, gradients = function(*arguments)
            return parts * 1.01, outputs, gradients

        return run

    monkeypatch.setattr(shutil, "which", lambda name: name)
    monkeypatch.setattr(torch, "compile", wrong)
    with pytest.raises(RuntimeError, match="the fused execution as it was compiled gave a loss of .* at step 1"):
        fitted(execution="fused", compiled=True)


# -- the decision ---------------------------------------------------------------------------------------------


def stepper_of(execution, steps=100, objective=None, **more):
    objective = objective or objective_of({"a2.weight": Gaussian()}, "meanfield")
    return Stepper(objective, make_optimizer("sgd", objective, 0.01), steps, execution, **more)


def decided(execution, seconds, monkeypatch, compiler=True, **more):
    """The report after one step, and whether a shorter timing was asked for."""
    asked = long(monkeypatch, seconds)
    monkeypatch.setattr(stepper_module, "_SECONDS_PER_NODE", 1.0)  # a graph of a hundred operations is a large one here
    monkeypatch.setattr(shutil, "which", lambda name: name if compiler else None)
    stepper = stepper_of(execution, **more)
    stepper.step(*batch_for(stepper.objective.model.network), 1.0)
    return stepper.report, asked


DECISIONS = {
    # seconds an evaluation of 100 steps: (execution, seconds, more, name, compiled, reason)
    "asked for": ("plain", 1e3, {}, "plain", False, "^it was asked for$"),
    "a short fit": ("auto", 1e-4, {}, "plain", False, "100 steps of 0.1 ms are to come, which do not repay comp"),
    "a fit shorter than its graph": ("auto", 0.26, {}, "plain", False, "do not repay about .* s of compilation"),
    "a long fit": ("auto", 1e3, {}, "fused", True, "and compilation is expected to take"),
    "a long fit, not to be compiled": ("auto", 1e3, {"compiled": False}, "plain", False, "without compilation"),
    "no compiler": ("auto", 1e3, {"compiler": False}, "plain", False, "there is no C"),
    "asked for, short": (
        "fused",
        1e-4,
        {},
        "fused",
        False,
        "^it was asked for, not compiled, which 100 steps would not",
    ),
    "asked for, long": ("fused", 1e3, {}, "fused", True, "^it was asked for, and compilation is expected"),
    "asked for, compiled": ("fused", 1e-4, {"compiled": True}, "fused", True, "^it was asked for, and compilation"),
    "asked for, not compiled": ("fused", 1e3, {"compiled": False}, "fused", False, "^it was asked for$"),
    "asked for, no compiler": ("fused", 1e3, {"compiler": False}, "fused", False, "^it was asked for, not compiled"),
}


@pytest.mark.parametrize("case", DECISIONS)
def test_the_decision(case, monkeypatch, no_compilation):
    execution, seconds, more, name, compiled, reason = DECISIONS[case]
    report, asked = decided(execution, seconds, monkeypatch, **more)
    assert (report.name, report.compiled) == (name, compiled)
    assert re.search(reason, report.reason), report.reason
    assert (report.fused_steps, report.plain_steps) == ((1, 0) if name == "fused" else (0, 1))
    # Where nothing hangs on the time, one evaluation is timed, for the report; on the plain execution none.
    assert asked == ([] if execution == "plain" else [execution == "fused" and "compiled" in more])


@pytest.mark.parametrize("per", ["layer", "network"])
def test_what_cannot_be_traced_is_said_or_refused(per, monkeypatch, no_compilation):
    def objective():
        return objective_of({"a*.weight": branching(per)}, "meanfield")

    if per == "layer":  # tensor by tensor, every one of them outside
        report, _ = decided("fused", 1e-4, monkeypatch, objective=objective())
        assert report.name == "fused" and report.plain_tensors == ["a1.weight", "a2.weight"]
        return
    report, _ = decided("auto", 1e3, monkeypatch, objective=objective())
    assert report.name == "plain" and "shared latents" in report.reason
    with pytest.raises(
        ValueError, match="execution='fused' cannot be taken: .*shared latents.*use execution='auto' or"
    ):
        decided("fused", 1e3, monkeypatch, objective=objective())


def test_an_unknown_execution_is_refused():
    with pytest.raises(ValueError, match="execution 'fast' is unknown: expected one of auto, plain, fused"):
        stepper_of("fast")
    with pytest.raises(ValueError, match="execution 'fast' is unknown"):
        fitted(execution="fast")


def test_timing_changes_nothing(monkeypatch):
    objective = objective_of({"a2.weight": SpikeAndSlab()}, "paired", mlp(norm=True, dropout=0.2))
    stepper = stepper_of("auto", 10**9, objective)
    before, random = state_of(objective, stepper.optimizer), torch.get_rng_state()
    seconds = stepper._time_plain(*batch_for(objective.model.network), 1.0, 10**9, once=False)
    assert 0.0 < seconds < 10.0
    assert apart(state_of(objective, stepper.optimizer), before) == 0.0
    assert torch.equal(torch.get_rng_state(), random)
    assert all(parameter.grad is None for parameter in objective.parameters())


def test_sites_estimated_from_the_draw_are_named(monkeypatch):
    unknown = Hierarchy(weight=lambda: dist.StudentT(4.0, 0.0, 1.0))
    objective = objective_of({"a1.weight": unknown, "a2.weight": HALO()}, "meanfield")
    report, _ = decided("fused", 1e-4, monkeypatch, objective=objective)
    assert report.from_draw == ["a1.weight"]
    assert "estimated from the draw: a1.weight" in str(report)


# -- the report -----------------------------------------------------------------------------------------------


def test_the_report_as_text():
    assert str(ExecutionReport(reason="it was asked for")) == "plain execution: it was asked for"
    report = ExecutionReport(
        "fused", "why", True, compile_seconds=12.34, plain_ms=2.5, fused_ms=1.25, break_even=9872,
        from_draw=["a", "b"], plain_tensors=["c"],
    )  # fmt: skip
    assert str(report) == (
        "fused execution: why; compiled in 12.3 s, 1.25 ms a step, loss and gradient of the plain one 2.50 ms, repaid "
        "after 9872 steps; estimated from the draw: a, b; outside the graph: c"
    )
    assert report.as_dict()["compile_seconds"] == 12.34 and report.as_dict()["from_draw"] == ["a", "b"]
    assert ExecutionReport(plain_ms=1.23456).as_dict()["plain_ms"] == 1.235


def test_the_report_counts_when_compilation_has_paid_for_itself(monkeypatch, no_compilation):
    long(monkeypatch, 2.0)
    monkeypatch.setattr(shutil, "which", lambda name: name)
    stepper = stepper_of("auto")
    for step in range(5):
        stepper.step(*batch_for(stepper.objective.model.network, step), 1.0)
    stepper.report.compile_seconds = 30.0
    report = stepper.finish()
    assert 0.0 < report.fused_ms < report.plain_ms == 2000.0
    assert report.break_even == round(30e3 / (2000.0 - report.fused_ms))
    stepper.report.plain_ms, stepper.report.break_even = report.fused_ms / 2, 0  # a graph that is slower never pays
    assert stepper.finish().break_even == 0


def test_the_executions_agree_as_far_as_rounding_goes_and_no_further(no_compilation):
    stepper = stepper_of("fused", compiled=False)
    x, y = batch_for(stepper.objective.model.network)
    stepper.step(x, y, 1.0)
    with torch.no_grad():
        plain = stepper.objective.terms(x, y)
    size = float((plain.kl.abs() + plain.log_likelihood.abs()).detach())
    for off, agrees in ((0.0, True), (1e-10, True), (1e-8, False), (float("nan"), True)):
        other = type(plain)(plain.loss.detach() + off * size, plain.log_likelihood, plain.kl)
        assert stepper._agree(plain, other, 1.0) == agrees, off


def test_a_networks_own_branch_is_said(monkeypatch):
    class Branches(nn.Module):
        def forward(self, x):
            return x if x.sum() > 0 else -x

    objective = objective_of({"*a2.weight": Gaussian()}, "map", nn.Sequential(mlp(), Branches()))
    report, _ = decided("auto", 1e3, monkeypatch, objective=objective)
    assert report.name == "plain" and report.reason.startswith("the objective cannot be traced (")
