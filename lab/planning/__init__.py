"""From a sweep file to a costed plan, in stages: language → arms → solve → plan.

`forecast` says what a plan takes and can find out; `show` prints it.
"""
