"""The nouns every room shares: frozen values, the error tree, the rules of a bundle.

Floor 1. No files, network or clocks here; `convert` alone knows the wire. Modules are named after
their nouns: `answer`, `decision`, `records`, `contract`, `bundle`, `release`, `invitation`,
`errors`, `config`.
"""
