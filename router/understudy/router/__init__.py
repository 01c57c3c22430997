"""The decision, pure: scores, contract, certificate, policy, audit coin, budget, drift, what-if.

No I/O, clocks, randomness or models. What the edge applies on every request (`policy`, `audit`,
`budget`) is standard library only; what scores, fits and certifies uses numpy and scipy.
"""
