"""Which wing of a floor may import which, in an order that has no circles: see ARCHITECTURE.md."""

from __future__ import annotations

# A file that stands on the floor itself is a wing of its own. A new import between wings is a decision made here, and
# `test_wings_make_no_circle` of tests/test_structure.py says whether it can be.
WINGS = {
    "models": {
        "files": "",
        "checks": "",
        "distributions": "",
        "language": "checks",
        "ways": "language",
        "masks": "ways",
        "networks": "checks",
        "graphs": "checks",
        "likelihoods": "",
        "tracing": "graphs checks",
        "units": "tracing graphs likelihoods checks",
        "costs": "units networks files checks",
        "gates": "units tracing costs distributions language ways networks checks",
        "priors": "distributions language gates checks",
        "deployment": "costs graphs language files checks",
        "bayesian_network": "gates ways language likelihoods",
        "unit_removal": "bayesian_network gates units",
        "declared_model": "bayesian_network priors gates masks ways networks likelihoods checks",
    },
    "inference": {
        "data": "",
        "ways": "",
        "guides": "ways",
        "restart": "guides",
        "fitted": "restart guides",
        "terms": "guides",
        "objective": "terms guides",
        "execution": "objective guides ways",
        "rules": "objective guides",
        "masks": "rules guides",
        "watching": "rules objective guides",
        "predictions": "fitted objective guides data",
        "posterior": "fitted restart watching guides data",
        "samplers": "fitted restart posterior masks rules objective guides",
        "defaults": "rules guides data",
        "inclusion": "fitted restart posterior guides data",
        "notes": "fitted inclusion predictions defaults rules watching guides data",
        "combined": "fitted inclusion predictions objective guides",
        "own_loop": "fitted restart inclusion posterior rules watching objective guides data",
        "fit_result": "fitted combined own_loop notes inclusion posterior predictions watching rules objective data",
        "training": "fit_result fitted restart inclusion posterior predictions defaults samplers"
        " rules watching execution objective guides data",
        "pruning": "training fit_result restart inclusion rules objective guides data",
        "sparsity_path": "pruning training fit_result predictions defaults data",
        "tuning": "sparsity_path training fit_result defaults guides data",
    },
    "analysis": {
        "arviz": "",
        "tables": "",
        "deletion": "",
        "diagnostics": "arviz",
        "plots": "arviz diagnostics deletion tables",
    },
    "bayesprune": {"earlier_homes": "", "data": "", "runs": "data", "commands": "runs data", "cli": "commands"},
}
