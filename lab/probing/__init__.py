"""Probes: each distinct architecture of a plan is tried on a tiny instance of it, so that no component breaks a promise
that the rest of the lab relies on: the past doesn't hear of the future, caches give what a whole pass gives, and every
parameter is trained.
"""
