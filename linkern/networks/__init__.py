"""Finite-width reference: networks with real weights, sampled from their posterior, that the theory must agree with."""

from linkern.networks.collapsed import CollapsedSamples as CollapsedSamples
from linkern.networks.collapsed import sample_collapsed as sample_collapsed
from linkern.networks.diagnostics import ChainSummary as ChainSummary
from linkern.networks.diagnostics import autocorrelation_time as autocorrelation_time
from linkern.networks.diagnostics import split_rhat as split_rhat
from linkern.networks.diagnostics import summarize as summarize
from linkern.networks.extrapolation import WidthExtrapolation as WidthExtrapolation
from linkern.networks.extrapolation import extrapolate_width as extrapolate_width
from linkern.networks.gibbs import sample_linear_posterior as sample_linear_posterior
from linkern.networks.gradient_flow import train_networks as train_networks
from linkern.networks.mlp import MLP as MLP
from linkern.networks.mlp import ForwardPass as ForwardPass
from linkern.networks.results import Estimate as Estimate
from linkern.networks.results import PosteriorSamples as PosteriorSamples
from linkern.networks.results import Progress as Progress
from linkern.networks.sampling import sample_posterior as sample_posterior
