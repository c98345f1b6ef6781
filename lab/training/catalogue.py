"""Imports, and so registers, every recipe, optimizer and schedule of the lab."""

from lab.training.optimizers import optimizer as optimizer
from lab.training.optimizers import schedule as schedule
from lab.training.recipes import base as base
from lab.training.recipes import distillation as distillation
from lab.training.recipes import label_smoothing as label_smoothing
