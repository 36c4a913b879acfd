"""The recipe of the three tiny models that the package ships: trained from scratch on drawings of their own."""
