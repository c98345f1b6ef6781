"""From a sweep file to a costed plan, in stages: language → arms → solve → plan.

`forecast` estimates what a plan costs and which effects it can detect; `show` prints it.
"""
