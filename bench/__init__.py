"""`python -m bench`: the product against the bare pipeline and bare sockets, interleaved, in ratios."""
