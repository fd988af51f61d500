"""One training step of TyXe and of bayesian-torch on the mean-field Normal model, as their users write it.

Neither is a dependency of this project. Install them beside it, without their own versions of PyTorch and Pyro:

    pip install --no-deps git+https://github.com/TyXe-BDL/TyXe
    pip install --no-deps bayesian-torch

What differs from the model of `benchmarks.hand_written_normal`, a Normal prior and a Normal guide on every parameter:

* TyXe learns a positive scale by its logarithm too (Pyro's constraint), takes the same closed-form KL, and one draw. It
  runs Pyro's SVI with Pyro's checks of arguments on, as is the default. It was written for PyTorch 1.12 and Pyro 1.8
  and works with later ones, if pip is told to leave them alone and `pyro.util.deep_getattr`, which Pyro 1.9 dropped,
  is put back; that is done here.
* bayesian-torch draws every layer's weights in `Reparameterization` layers, its scale is softplus(rho), and its KL is
  the mean over the entries of each tensor, not the sum: another objective at the same cost. It has no Bayesian
  batch normalisation: those parameters stay point estimates.
"""

from __future__ import annotations

import copy
import math
import operator
from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional

from benchmarks.flat_network import Setup

Step = Callable[[], float]


def tyxe_step(network: nn.Module, setup: Setup, x: Tensor, y: Tensor) -> Step:
    """A step of `tyxe.VariationalBNN.fit` with `tyxe.guides.AutoNormal` from the network's weights.

    Args:
        network: Copied; on the device of the data.
        setup: Sizes and rates.
        x: Inputs, `(batch, ...)`.
        y: Labels, `(batch,)`.

    Returns:
        A function that makes a step and returns the loss in nats.

    Raises:
        ImportError: If TyXe is not installed.
    """
    import pyro
    import pyro.distributions as dist
    import tyxe
    from pyro.infer import SVI, TraceMeanField_ELBO

    if not hasattr(pyro.util, "deep_getattr"):
        pyro.util.deep_getattr = lambda whole, name: operator.attrgetter(name)(whole)
    pyro.clear_param_store()
    net = copy.deepcopy(network).train()
    start = tyxe.guides.PretrainedInitializer.from_net(net, prefix="net")
    prior = tyxe.priors.IIDPrior(dist.Normal(x.new_tensor(0.0), x.new_tensor(setup.prior_sd)))

    def guide(model: nn.Module) -> nn.Module:
        return tyxe.guides.AutoNormal(model, init_loc_fn=start, init_scale=setup.scale)

    bnn = tyxe.VariationalBNN(net, prior, tyxe.likelihoods.Categorical(setup.data_size), guide, name="").to(x.device)
    svi = SVI(bnn.model, bnn.guide, pyro.optim.Adam({"lr": setup.learning_rate}), TraceMeanField_ELBO())
    return lambda: float(svi.step((x,), y))


def bayesian_torch_step(network: nn.Module, setup: Setup, x: Tensor, y: Tensor) -> Step:
    """A step of the training loop of bayesian-torch's README: `dnn_to_bnn`, cross entropy plus `get_kl_loss`, Adam.

    Args:
        network: Copied; its layers are replaced, their weights not kept.
        setup: Sizes and rates.
        x: Inputs, `(batch, ...)`.
        y: Labels, `(batch,)`.

    Returns:
        A function that makes a step and returns the loss (the data term in nats of the full data).

    Raises:
        ImportError: If bayesian-torch is not installed.
    """
    from bayesian_torch.models.dnn_to_bnn import dnn_to_bnn, get_kl_loss

    net = copy.deepcopy(network).train()
    settings = {
        "prior_mu": 0.0,
        "prior_sigma": setup.prior_sd,
        "posterior_mu_init": 0.0,
        "posterior_rho_init": math.log(math.expm1(setup.scale)),
        "type": "Reparameterization",
        "moped_enable": False,
    }
    dnn_to_bnn(net, settings)
    net = net.to(x.device)
    optimizer = torch.optim.Adam(net.parameters(), setup.learning_rate)

    def step() -> float:
        optimizer.zero_grad()
        loss = functional.cross_entropy(net(x), y) * setup.data_size + get_kl_loss(net)
        loss.backward()
        optimizer.step()
        return loss.item()

    return step


PEERS: dict[str, Callable[[nn.Module, Setup, Tensor, Tensor], Step]] = {
    "TyXe": tyxe_step,
    "bayesian-torch": bayesian_torch_step,
}
INSTALL = {
    "TyXe": "pip install --no-deps git+https://github.com/TyXe-BDL/TyXe",
    "bayesian-torch": "pip install --no-deps bayesian-torch",
}
"""How to get each."""
