"""All components that ship with the lab. Importing this module registers them. A new one is a file and a line here.

Lists and messages show the components of a kind in this order.
"""
# ruff: noqa: F401

import components.attention.heads
import components.attention.mixer
import components.attention.mla
import components.attention.qk_norm
import components.attention.span
import components.embedding
import components.initialization
import components.mixers.linear
import components.mlp
import components.moe.experts
import components.norm
import components.position.embedding
import components.position.positions
import components.position.rope_scaling
import components.residual
import components.softcap
