"""How do training libraries and batch systems mark their stages without a line in the training code?

One module a library. Each imports its own library, so none is imported until you ask for it; the client
itself stays as light as it is.
"""
