"""Every evaluator of the lab: importing this registers them."""

from lab.evaluation import perplexity as perplexity
from lab.evaluation import recall as recall
