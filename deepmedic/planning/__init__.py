"""Planning: what a data set needs of a network and its training, and configs that say so."""
