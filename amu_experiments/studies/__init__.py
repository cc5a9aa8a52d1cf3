"""Studies that train many runs to answer one question. Nothing else in the package imports them."""
