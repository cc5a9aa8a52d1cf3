"""The frame: an array of integers in which machine code finds addresses and sizes. Here are the slots' numbers.

slots.STATES is the slot of "states". A frame is FIELDS, then VECTOR for each vector parameter that a step reads, then
PRODUCT for each of its products. The slots of PRODUCT count from the first slot of the product.
"""

FIELDS = (
    # Addresses: parameters (P,) and their gradient; blocks; packed matrices.
    *("p", "g", "x", "states", "tape", "y", "net", "rec", "dx", "dy", "dstate", "dnet", "drec", "dfactor"),
    *("of_vectors", "saved", "ones", "lengths", "packed"),
    # Distances between time steps, in rows; for dnet and drec, within a stretch of time steps.
    *("x_step", "states_step", "tape_step", "y_step", "dnet_step", "drec_step"),
    # Time steps: of the longest and the shortest sequence, and of a stretch.
    *("longest", "shortest", "stretch"),
    # Places among the packed matrices, of weight_ih.
    *("forward_ih", "backward_ih"),
    # Sizes and places of parameters.
    *("inputs", "rows", "state", "tape_rows", "outputs", "recs", "dfactors", "vectors", "ih", "bias", "biased"),
)
PRODUCT = ("factors", "results", "factor_at", "result_at", "error_at", "place", "width", "forward", "backward")
"""Fields of each product; `forward` and `backward` are places of its packed matrix and the transpose."""
VECTOR = ("place", "row", "size")
"""Fields of each vector parameter that the step reads; rows of `of_vectors` sum its gradient."""


for _names in (FIELDS, PRODUCT):
    globals().update({_name.upper(): _slot for _slot, _name in enumerate(_names)})
