"""The recipe of the two tiny models that the package ships: trained from scratch on drawings of their own."""
