"""Imports, and so registers, every evaluator of the lab."""

from lab.evaluation.evaluators import attention_maps as attention_maps
from lab.evaluation.evaluators import context as context
from lab.evaluation.evaluators import generation_speed as generation_speed
from lab.evaluation.evaluators import inference_window as inference_window
from lab.evaluation.evaluators import memorisation as memorisation
from lab.evaluation.evaluators import perplexity as perplexity
from lab.evaluation.evaluators import recall as recall
from lab.evaluation.evaluators import stability as stability
from lab.evaluation.evaluators import tasks as tasks
from lab.evaluation.evaluators import transfer as transfer
