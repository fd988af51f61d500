"""Bayesian sparsity priors for PyTorch networks: declare a prior, fit it, inspect it, prune.

    import bayesprune as bp

    bnn = bp.BayesianNetwork(network, priors={"fc*.weight": bp.SpikeAndSlab()}, data_size=len(x))
    fit = bp.fit(bnn, (x, y), epochs=20)
    result = bp.prune(fit, sparsity=0.95)

This module is a lazy face: a public name is imported from its home the first time it is asked for, so that
`import bayesprune` and `bayesprune --help` do not wait for PyTorch.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from bayesprune.earlier_homes import know_earlier_homes
from bayesprune.public_homes import HOMES

__version__ = "0.1.0"

# What type checkers and editors read; `_HOMES` below says the same to Python, and a test compares the two.
if TYPE_CHECKING:
    from bayesprune.analysis.arviz.to_arviz import to_arviz as to_arviz
    from bayesprune.analysis.deletion.deletion_calibration import DeletionCalibration as DeletionCalibration
    from bayesprune.analysis.deletion.deletion_calibration import deletion_calibration as deletion_calibration
    from bayesprune.analysis.deletion.set_deletion import SetDeletion as SetDeletion
    from bayesprune.analysis.deletion.set_deletion import set_deletion as set_deletion
    from bayesprune.analysis.diagnostics.agreement import agreement as agreement
    from bayesprune.analysis.diagnostics.convergence import convergence as convergence
    from bayesprune.analysis.diagnostics.loo import loo as loo
    from bayesprune.analysis.diagnostics.pareto import pareto_khat as pareto_khat
    from bayesprune.analysis.diagnostics.stopping import until_converged as until_converged
    from bayesprune.analysis.plots.architecture import plot_architecture as plot_architecture
    from bayesprune.analysis.plots.calibration import plot_calibration as plot_calibration
    from bayesprune.analysis.plots.deletion_calibration import plot_deletion_calibration as plot_deletion_calibration
    from bayesprune.analysis.plots.front import plot_front as plot_front
    from bayesprune.analysis.plots.gates import plot_gates as plot_gates
    from bayesprune.analysis.plots.inclusion import plot_inclusion as plot_inclusion
    from bayesprune.analysis.plots.mask_churn import plot_masks as plot_masks
    from bayesprune.analysis.plots.prior_posterior import plot_prior_posterior as plot_prior_posterior
    from bayesprune.analysis.plots.pruning_trace import plot_pruning_trace as plot_pruning_trace
    from bayesprune.analysis.plots.r_hat import plot_r_hat as plot_r_hat
    from bayesprune.analysis.plots.reference import plot_against_reference as plot_against_reference
    from bayesprune.analysis.plots.scales import plot_scales as plot_scales
    from bayesprune.analysis.plots.shrinkage import plot_shrinkage as plot_shrinkage
    from bayesprune.analysis.plots.sweep import plot_sweep as plot_sweep
    from bayesprune.analysis.plots.thresholds import plot_thresholds as plot_thresholds
    from bayesprune.analysis.plots.trajectories import plot_trajectories as plot_trajectories
    from bayesprune.analysis.plots.units import plot_units as plot_units
    from bayesprune.analysis.reference.against_reference import AgainstReference as AgainstReference
    from bayesprune.analysis.reference.against_reference import against_reference as against_reference
    from bayesprune.analysis.reference.reference import Reference as Reference
    from bayesprune.analysis.reference.reference import reference as reference
    from bayesprune.analysis.structure.graph_features import FeatureTable as FeatureTable
    from bayesprune.analysis.structure.graph_features import feature_table as feature_table
    from bayesprune.analysis.structure.graph_features import graph_features as graph_features
    from bayesprune.analysis.structure.horseshoe_regression import HorseshoeRegression as HorseshoeRegression
    from bayesprune.analysis.structure.performance_predictor import PerformancePredictor as PerformancePredictor
    from bayesprune.analysis.structure.prediction import PerformancePrediction as PerformancePrediction
    from bayesprune.analysis.structure.prediction import predict_performance as predict_performance
    from bayesprune.analysis.structure.structure_graph import structure_graph as structure_graph
    from bayesprune.analysis.structure_plots.prediction import plot_prediction as plot_prediction
    from bayesprune.analysis.structure_plots.search import plot_search as plot_search
    from bayesprune.analysis.structure_plots.structure_graph import plot_structure as plot_structure
    from bayesprune.analysis.tables.layer_table import layer_table as layer_table
    from bayesprune.analysis.tables.training_costs import TrainingCosts as TrainingCosts
    from bayesprune.analysis.tables.training_costs import training_costs as training_costs
    from bayesprune.data.reber import n_gram_leakage as n_gram_leakage
    from bayesprune.data.reber import reber_strings as reber_strings
    from bayesprune.data.reber import tokens_of as tokens_of
    from bayesprune.data.sets import load_data as load_data
    from bayesprune.inference.combined import Combined as Combined
    from bayesprune.inference.data.batch_normalisation import reestimate_statistics as reestimate_statistics
    from bayesprune.inference.defaults.onset_start import onset_start as onset_start
    from bayesprune.inference.deletion.deletion_scores import DeletionScores as DeletionScores
    from bayesprune.inference.deletion.deletion_scores import deletion_scores as deletion_scores
    from bayesprune.inference.deletion.deletion_scores import set_scores as set_scores
    from bayesprune.inference.execution.stepper import Stepper as Stepper
    from bayesprune.inference.fit_result import Fit as Fit
    from bayesprune.inference.guides.factors import BernoulliFactor as BernoulliFactor
    from bayesprune.inference.guides.factors import DeltaFactor as DeltaFactor
    from bayesprune.inference.guides.factors import LogitNormalFactor as LogitNormalFactor
    from bayesprune.inference.guides.factors import LogNormalFactor as LogNormalFactor
    from bayesprune.inference.guides.factors import NormalFactor as NormalFactor
    from bayesprune.inference.guides.hard_concrete import HardConcreteFactor as HardConcreteFactor
    from bayesprune.inference.guides.low_rank_normal import LowRankNormalFactor as LowRankNormalFactor
    from bayesprune.inference.guides.paired import SlabFactor as SlabFactor
    from bayesprune.inference.guides.truncated_lognormal import TruncatedLogNormalFactor as TruncatedLogNormalFactor
    from bayesprune.inference.inclusion.event_rule import EventRule as EventRule
    from bayesprune.inference.inclusion.event_rule import event_rule as event_rule
    from bayesprune.inference.inclusion.ranks import ranks as ranks
    from bayesprune.inference.inclusion.reduction import evidence_change as evidence_change
    from bayesprune.inference.inclusion.reduction import reduced_inclusion as reduced_inclusion
    from bayesprune.inference.inclusion.reduction import reduction as reduction
    from bayesprune.inference.masks.bayesian_scores import implied_densities as implied_densities
    from bayesprune.inference.masks.density_schedules import ConstantDensity as ConstantDensity
    from bayesprune.inference.masks.density_schedules import CubicDensity as CubicDensity
    from bayesprune.inference.masks.density_schedules import CyclicDensity as CyclicDensity
    from bayesprune.inference.masks.density_schedules import DensitySchedule as DensitySchedule
    from bayesprune.inference.masks.density_schedules import IteratedDensity as IteratedDensity
    from bayesprune.inference.masks.dynamic_masks import DynamicMasks as DynamicMasks
    from bayesprune.inference.masks.knob_schedule import KnobSchedule as KnobSchedule
    from bayesprune.inference.masks.phasing import Phasing as Phasing
    from bayesprune.inference.masks.scores import drop_score as drop_score
    from bayesprune.inference.masks.scores import grow_score as grow_score
    from bayesprune.inference.objective.expectation import Expectation as Expectation
    from bayesprune.inference.objective.expectation import Expected as Expected
    from bayesprune.inference.objective.expectation import way_expectation as way_expectation
    from bayesprune.inference.objective.gradient import Gradient as Gradient
    from bayesprune.inference.objective.latent_gate_estimators import ScoreFunction as ScoreFunction
    from bayesprune.inference.objective.latent_gate_estimators import moment_matched as moment_matched
    from bayesprune.inference.objective.objective import objective as objective
    from bayesprune.inference.objective.unit_gate_estimators import DisARM as DisARM
    from bayesprune.inference.objective.unit_gate_estimators import Estimate as Estimate
    from bayesprune.inference.objective.unit_gate_estimators import ExactToggle as ExactToggle
    from bayesprune.inference.objective.unit_gate_estimators import HardConcreteRelaxation as HardConcreteRelaxation
    from bayesprune.inference.objective.unit_gate_estimators import ReinforceLeaveOneOut as ReinforceLeaveOneOut
    from bayesprune.inference.objective.unit_gate_estimators import StraightThrough as StraightThrough
    from bayesprune.inference.objective.unit_gate_estimators import Trapezoid as Trapezoid
    from bayesprune.inference.predictions.metrics import brier_score as brier_score
    from bayesprune.inference.predictions.out_of_distribution import (
        out_of_distribution_auroc as out_of_distribution_auroc,
    )
    from bayesprune.inference.pruning.criteria import magnitude as magnitude
    from bayesprune.inference.pruning.finetune import finetune as finetune
    from bayesprune.inference.pruning.iterative import IterativePruning as IterativePruning
    from bayesprune.inference.pruning.prune import prune as prune
    from bayesprune.inference.pruning.report import PruneResult as PruneResult
    from bayesprune.inference.recipes.ready_recipes import RECIPES as RECIPES
    from bayesprune.inference.recipes.ready_recipes import ready_recipe as ready_recipe
    from bayesprune.inference.recipes.ready_recipes import recipe as recipe
    from bayesprune.inference.recipes.recipe import Recipe as Recipe
    from bayesprune.inference.refitting.refit import refit as refit
    from bayesprune.inference.refitting.score_forms import FormScores as FormScores
    from bayesprune.inference.refitting.score_forms import score_forms as score_forms
    from bayesprune.inference.rules.budget import Budget as Budget
    from bayesprune.inference.rules.gate_training import Gating as Gating
    from bayesprune.inference.rules.iterate_average import IterateAverage as IterateAverage
    from bayesprune.inference.rules.rule import ActiveRule as ActiveRule
    from bayesprune.inference.rules.rule import Change as Change
    from bayesprune.inference.rules.rule import Needs as Needs
    from bayesprune.inference.rules.rule import Rule as Rule
    from bayesprune.inference.rules.rule import Run as Run
    from bayesprune.inference.rules.rule import Taken as Taken
    from bayesprune.inference.rules.schedules import constant as constant
    from bayesprune.inference.rules.schedules import cosine as cosine
    from bayesprune.inference.rules.schedules import cyclical as cyclical
    from bayesprune.inference.rules.schedules import hold_then_cosine as hold_then_cosine
    from bayesprune.inference.rules.schedules import steps as steps
    from bayesprune.inference.rules.schedules import warmup_cosine as warmup_cosine
    from bayesprune.inference.rules.thresholds import Thresholds as Thresholds
    from bayesprune.inference.runtime.fabric import FabricRuntime as FabricRuntime
    from bayesprune.inference.runtime.lost import LostProcessError as LostProcessError
    from bayesprune.inference.runtime.one_process import OneProcess as OneProcess
    from bayesprune.inference.runtime.runtime import Runtime as Runtime
    from bayesprune.inference.samplers.cooling_cycles import CoolingCycles as CoolingCycles
    from bayesprune.inference.samplers.cyclical_sampling import CyclicalSampling as CyclicalSampling
    from bayesprune.inference.samplers.langevin import SGHMC as SGHMC
    from bayesprune.inference.samplers.langevin import SGLD as SGLD
    from bayesprune.inference.samplers.sampled_inclusion import sampled_inclusion as sampled_inclusion
    from bayesprune.inference.search.history import found_genome as found_genome
    from bayesprune.inference.search.search import search as search
    from bayesprune.inference.search.searched import Searched as Searched
    from bayesprune.inference.search.surrogate import Surrogate as Surrogate
    from bayesprune.inference.sparsity_path.continuation import sparsity_path as sparsity_path
    from bayesprune.inference.sparsity_path.sparsity_path import SparsityPath as SparsityPath
    from bayesprune.inference.terms.check import check_term as check_term
    from bayesprune.inference.terms.registry import register_term as register_term
    from bayesprune.inference.training.fit import fit as fit
    from bayesprune.inference.training.fit_options import FitOptions as FitOptions
    from bayesprune.inference.training.laplace_around import laplace_around as laplace_around
    from bayesprune.inference.training.optimizers import make_optimizer as make_optimizer
    from bayesprune.inference.tuning.tuning import Tuned as Tuned
    from bayesprune.inference.tuning.tuning import tune as tune
    from bayesprune.inference.watching.callbacks import Callback as Callback
    from bayesprune.inference.watching.callbacks import FitState as FitState
    from bayesprune.inference.watching.record import Record as Record
    from bayesprune.inference.watching.tensorboard import TensorBoard as TensorBoard
    from bayesprune.inference.watching.trace_file import WriteTrace as WriteTrace
    from bayesprune.inference.watching.trace_file import read_trace as read_trace
    from bayesprune.inference.ways.way_family import WayFamily as WayFamily
    from bayesprune.inference.ways.way_family import way_family as way_family
    from bayesprune.models.bayesian_network import BayesianNetwork as BayesianNetwork
    from bayesprune.models.costs.costs import costs as costs
    from bayesprune.models.costs.expected_costs import ExpectedCosts as ExpectedCosts
    from bayesprune.models.costs.latency import latency as latency
    from bayesprune.models.costs.layer_budgets import LayerBudget as LayerBudget
    from bayesprune.models.costs.weight_names import weight_names as weight_names
    from bayesprune.models.deployment.export import export_network as export_network
    from bayesprune.models.deployment.onnx_export import export_onnx as export_onnx
    from bayesprune.models.deployment.sparse import to_sparse as to_sparse
    from bayesprune.models.distributions.flattening import FlatteningPrior as FlatteningPrior
    from bayesprune.models.distributions.inclusion_threshold import implied_density as implied_density
    from bayesprune.models.distributions.inclusion_threshold import inclusion_threshold as inclusion_threshold
    from bayesprune.models.distributions.spike_slab_mixture import SpikeSlabMixture as SpikeSlabMixture
    from bayesprune.models.gates.cost_pressure import CostPressure as CostPressure
    from bayesprune.models.gates.unit_gates import UnitGates as UnitGates
    from bayesprune.models.genomes.genome import Genome as Genome
    from bayesprune.models.genomes.genome_network import network_of as network_of
    from bayesprune.models.genomes.random_genomes import random_genome as random_genome
    from bayesprune.models.genomes.search_space import SearchSpace as SearchSpace
    from bayesprune.models.language.hierarchy import Hierarchy as Hierarchy
    from bayesprune.models.language.inclusion import InclusionEvent as InclusionEvent
    from bayesprune.models.language.inclusion import beyond_threshold as beyond_threshold
    from bayesprune.models.language.inclusion import exact_zero as exact_zero
    from bayesprune.models.language.inclusion import reduced_to_zero as reduced_to_zero
    from bayesprune.models.language.inclusion import relative_threshold as relative_threshold
    from bayesprune.models.language.inclusion import shrinkage_below as shrinkage_below
    from bayesprune.models.language.inclusion import slab_membership as slab_membership
    from bayesprune.models.language.inclusion import some_component as some_component
    from bayesprune.models.language.knobs import Knob as Knob
    from bayesprune.models.language.latent import Latent as Latent
    from bayesprune.models.language.prior_sparsity import prior_sparsity as prior_sparsity
    from bayesprune.models.likelihoods.counts import Poisson as Poisson
    from bayesprune.models.likelihoods.labels import Bernoulli as Bernoulli
    from bayesprune.models.likelihoods.labels import Categorical as Categorical
    from bayesprune.models.likelihoods.likelihood import Likelihood as Likelihood
    from bayesprune.models.likelihoods.normal import Normal as Normal
    from bayesprune.models.likelihoods.real_likelihoods import HeteroscedasticNormal as HeteroscedasticNormal
    from bayesprune.models.likelihoods.real_likelihoods import StudentT as StudentT
    from bayesprune.models.masks.mask_way import Masks as Masks
    from bayesprune.models.networks.dyrelu import DyReLU as DyReLU
    from bayesprune.models.networks.dyrelu_networks import with_dyrelu as with_dyrelu
    from bayesprune.models.networks.fast_grnn import fast_grnn as fast_grnn
    from bayesprune.models.networks.lenet import lenet_5 as lenet_5
    from bayesprune.models.networks.lenet import lenet_300_100 as lenet_300_100
    from bayesprune.models.networks.mobilenet import mobilenet_v1 as mobilenet_v1
    from bayesprune.models.networks.mobilenet import mobilenet_v2 as mobilenet_v2
    from bayesprune.models.networks.recurrent import gru as gru
    from bayesprune.models.networks.recurrent import lstm as lstm
    from bayesprune.models.networks.resnet import resnet_18 as resnet_18
    from bayesprune.models.networks.resnet import resnet_18_imagenet as resnet_18_imagenet
    from bayesprune.models.networks.resnet import resnet_20 as resnet_20
    from bayesprune.models.networks.resnet import resnet_32 as resnet_32
    from bayesprune.models.networks.resnet import resnet_34 as resnet_34
    from bayesprune.models.networks.resnet import resnet_34_cifar as resnet_34_cifar
    from bayesprune.models.networks.resnet import resnet_50 as resnet_50
    from bayesprune.models.networks.resnet import resnet_50_cifar as resnet_50_cifar
    from bayesprune.models.networks.resnet import resnet_56 as resnet_56
    from bayesprune.models.networks.shared_blocks import extra_weights as extra_weights
    from bayesprune.models.networks.shared_blocks import share_blocks as share_blocks
    from bayesprune.models.networks.standardisation import put_in_units as put_in_units
    from bayesprune.models.networks.standardisation import units_of as units_of
    from bayesprune.models.networks.vgg import vgg_16_bn as vgg_16_bn
    from bayesprune.models.priors.continuous_spike_and_slab import ContinuousSpikeAndSlab as ContinuousSpikeAndSlab
    from bayesprune.models.priors.continuous_spike_and_slab import ScheduledSpikeAndSlab as ScheduledSpikeAndSlab
    from bayesprune.models.priors.gaussian import Gaussian as Gaussian
    from bayesprune.models.priors.group_horseshoe import GroupHorseshoe as GroupHorseshoe
    from bayesprune.models.priors.group_normal_jeffreys import GroupNormalJeffreys as GroupNormalJeffreys
    from bayesprune.models.priors.halo import HALO as HALO
    from bayesprune.models.priors.horseshoe import Horseshoe as Horseshoe
    from bayesprune.models.priors.horseshoe import RegularisedHorseshoe as RegularisedHorseshoe
    from bayesprune.models.priors.l0_hard_concrete import L0HardConcrete as L0HardConcrete
    from bayesprune.models.priors.laplace import Laplace as Laplace
    from bayesprune.models.priors.low_rank import LowRank as LowRank
    from bayesprune.models.priors.mcp import MCP as MCP
    from bayesprune.models.priors.reduction import Reduction as Reduction
    from bayesprune.models.priors.soft_threshold import SoftThreshold as SoftThreshold
    from bayesprune.models.priors.sparse_variational_dropout import SparseVariationalDropout as SparseVariationalDropout
    from bayesprune.models.priors.spike_and_slab import SpikeAndSlab as SpikeAndSlab
    from bayesprune.models.priors.structured_bayesian_pruning import (
        StructuredBayesianPruning as StructuredBayesianPruning,
    )
    from bayesprune.models.priors.sws import SWS as SWS
    from bayesprune.models.priors.vib import VIB as VIB
    from bayesprune.models.structure.edge_gates import EdgeGates as EdgeGates
    from bayesprune.models.structure.edge_gates import edge_gates as edge_gates
    from bayesprune.models.structure.graph_network import GraphNetwork as GraphNetwork
    from bayesprune.models.structure.graph_network import graph_network as graph_network
    from bayesprune.models.structure.graph_prior import AnyGraph as AnyGraph
    from bayesprune.models.structure.graph_prior import GraphPrior as GraphPrior
    from bayesprune.models.structure.graph_recurrent import GraphRecurrent as GraphRecurrent
    from bayesprune.models.structure.layered_graph import LayeredGraph as LayeredGraph
    from bayesprune.models.structure.layered_graph import layered as layered
    from bayesprune.models.structure.masked_linear import MaskedLinear as MaskedLinear
    from bayesprune.models.structure.masked_linear import masks_of as masks_of
    from bayesprune.models.structure.random_graphs import BarabasiAlbert as BarabasiAlbert
    from bayesprune.models.structure.random_graphs import ErdosRenyi as ErdosRenyi
    from bayesprune.models.structure.random_graphs import GivenEdges as GivenEdges
    from bayesprune.models.structure.random_graphs import NewmanWattsStrogatz as NewmanWattsStrogatz
    from bayesprune.models.structure.random_graphs import WattsStrogatz as WattsStrogatz
    from bayesprune.models.structure.recurrent_layer import RecurrentLayer as RecurrentLayer
    from bayesprune.models.structure.recurrent_stack import RecurrentStack as RecurrentStack
    from bayesprune.models.units.architecture import architecture as architecture
    from bayesprune.models.units.channel_groups import ChannelGroups as ChannelGroups
    from bayesprune.models.units.compact import CompactResult as CompactResult
    from bayesprune.models.units.compact import compact as compact
    from bayesprune.models.ways.buffer_dict import BufferDict as BufferDict
    from bayesprune.models.ways.way import Way as Way
    from bayesprune.runs.run_folder import load_run as load_run
    from bayesprune.runs.run_folder import read_summary as read_summary
    from bayesprune.sweeps.loading import load_sweep as load_sweep
    from bayesprune.sweeps.space import Range as Range
    from bayesprune.sweeps.space import SweepSpace as SweepSpace
    from bayesprune.sweeps.sweep import sweep as sweep
    from bayesprune.sweeps.sweep_result import Sweep as Sweep
    from bayesprune.sweeps.sweep_result import SweepFit as SweepFit
    from bayesprune.sweeps.trial import RunTrial as RunTrial

__all__ = ["__version__", *HOMES]

know_earlier_homes()


def __getattr__(name: str) -> Any:
    """Imports a public name from its home, once.

    Raises:
        AttributeError: `bayesprune` has no such public name.
    """
    if name not in HOMES:
        raise AttributeError(f"module 'bayesprune' has no attribute {name!r}; see dir(bayesprune)")
    value = getattr(import_module(HOMES[name]), name)
    globals()[name] = value  # the next look-up does not come here
    return value


def __dir__() -> list[str]:
    """The names of the module, the public ones included before they are imported."""
    return sorted({*globals(), *HOMES})
