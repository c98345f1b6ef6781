"""Every evaluator of the lab: importing this registers them."""

from lab.evaluation import attention_maps as attention_maps
from lab.evaluation import context as context
from lab.evaluation import inference_window as inference_window
from lab.evaluation import perplexity as perplexity
from lab.evaluation import stability as stability
